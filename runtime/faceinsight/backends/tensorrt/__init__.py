"""TensorRT: engines built on this device, kept in a cache, and run. Not run on hardware."""
