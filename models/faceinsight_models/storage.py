"""How weights and graphs are stored: the names of a bundle's files, and limits that training and export share."""

from __future__ import annotations

#: Files of a bundle.
DETECTOR, PARSER, ENCODER, CLOSEUP = "detector.onnx", "parser.onnx", "encoder.onnx", "closeup.onnx"
KNOWLEDGE, QUESTION, VISION, LLM = "knowledge.onnx", "question.onnx", "vision.onnx", "llm.gguf"
#: The question encoder's vocabulary, where the bundle's LLM has another one.
QUESTION_VOCABULARY = "question.gguf"
#: The words of questions, by which misspelt ones are corrected.
WORDS = "words.txt"

#: Smaller tensors (norms, biases, statistics) keep their precision: they save nothing and matter most.
MIN_ELEMENTS = 2048
#: LayerNormalization is one operator from 17 on: decomposed it overflows in half precision.
OPSET = 18
#: The file format that came with this opset: exporters write their newest, which an older ONNX Runtime does not read.
IR_VERSION = 8
