"""Evaluation: how well a model does, measured on questions it has not seen."""
