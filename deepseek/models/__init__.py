"""What a model is: configuration, layers, checkpoints in and out, tokenizer, and the small model that ships with us."""
