"""A small base model made offline: text, tokenizer, architecture, pretraining."""
