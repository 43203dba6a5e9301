"""LLaVA checkpoints as they lie on disk: their tensors, adapters, LLM families and rotary embeddings."""
