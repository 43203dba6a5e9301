"""GGUF files: the LLM, its tokenizer, and quantization."""
