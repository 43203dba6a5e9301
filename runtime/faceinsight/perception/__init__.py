"""From a photo to faces: detection, alignment, parsing, encoding, labels. No LLM."""
