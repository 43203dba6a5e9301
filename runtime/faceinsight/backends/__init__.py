"""What computes: ONNX Runtime, TensorRT and llama.cpp, and the device that all of them run on."""
