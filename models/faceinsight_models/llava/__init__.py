"""LLaVA checkpoints as transformers reads them, and what an adapter for one is trained on."""
