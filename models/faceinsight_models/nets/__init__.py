"""The networks, in torch, and the ONNX graphs that are written of them."""
