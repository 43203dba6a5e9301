"""llama.cpp: bindings, tokenizer, model and KV cache, threads."""
