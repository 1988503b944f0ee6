"""Texts held to rules: words and patterns, found in a stream as it comes, in time that grows with the text and no faster."""
