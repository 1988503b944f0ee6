"""From logits to token ids: parameters, penalties and masks of a step, and the draw."""
