"""The server's camera: consent, frames, who is there, questions about now."""
