"""Checkpoint, vocabulary, tokenizer, hooked model, pretraining."""
