"""ONNX graphs that the exporter writes itself: the vision encoder, and weights in fewer bits."""
