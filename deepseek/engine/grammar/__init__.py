"""Constrained output: JSON schemas, regular expressions, choices and grammars as masks of allowed tokens."""
