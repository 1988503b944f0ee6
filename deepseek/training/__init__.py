"""Training: recipes, data, losses, the loop, its checkpoints, and the built-in model's curriculum."""
