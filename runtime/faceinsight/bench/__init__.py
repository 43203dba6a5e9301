"""`faceinsight bench`: how long each step takes on this device, with what ran where. `run.bench` is the main path."""
