"""Texts drawn at random from a grammar, as a model without any sense would write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema
import numpy as np
from numpy.random import Generator, default_rng

from deepseek.core.constraint import Constraint
from deepseek.engine.grammar.limits import build
from deepseek.engine.grammar.matcher import CompiledGrammar, Matcher
from deepseek.engine.grammar.source import grammar_source
from deepseek.engine.grammar.vocabulary import grammar_vocabulary, text_bytes
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer

# Tokens that run over the borders of JSON's parts, beside every byte by itself.
SPANNING = (
    '{"',
    '":',
    '": ',
    '", "',
    '",',
    '"}',
    '"}}',
    '"]',
    '"}]',
    "[{",
    "}]}",
    "],",
    "}, {",
    "null}",
    "true,",
    ": [",
)


class Vocabulary:
    """Tokens by their bytes; the last one ends the sequence."""

    def __init__(self, tokens: Sequence[bytes], encode: Any = None) -> None:
        self.tokens = [*tokens, b""]
        self.end = len(tokens)
        self.closing = np.array([any(c in b'}]"' for c in token) for token in self.tokens])
        self.lengths = np.array([len(token) for token in self.tokens])
        self._inner = grammar_vocabulary(self.tokens, (self.end,), encode)

    def compile(self, constraint: Constraint) -> CompiledGrammar:
        """As the compiler does it, but in this thread."""
        return CompiledGrammar(build(self._inner, grammar_source(constraint)), len(self.tokens), (self.end,))

    def text(self, ids: Sequence[int]) -> str:
        return b"".join(self.tokens[i] for i in ids).decode()


@cache
def spanning_vocabulary() -> Vocabulary:
    words = [b"the", b" name", b"value", b"10", b"2024-", b"-0", b"\n  ", b"  ", "数据".encode(), "é".encode()[:1]]
    return Vocabulary([*(bytes([i]) for i in range(256)), *(text.encode() for text in SPANNING), *words])


@cache
def builtin_tokenizer() -> Tokenizer:
    return Tokenizer.from_dir(builtin_dir())


@cache
def builtin_vocabulary() -> Vocabulary:
    tokenizer = builtin_tokenizer()
    tokens = text_bytes(tokenizer, tokenizer.vocab_size, tokenizer.eos_ids)
    return Vocabulary(tokens, lambda text: tokenizer.encode_piece(text, at_start=False))


def allowed(mask: Any) -> list[int]:
    """The ids whose bits are set in one row of `masks`."""
    return [int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))]


def random_text(vocabulary: Vocabulary, grammar: CompiledGrammar, seed: Sequence[int], most: int = 600) -> str | None:
    """A finished text, or None if it was not finished after so many tokens."""
    random = default_rng(seed)
    matcher = grammar.matcher()
    ids: list[int] = []
    while len(ids) < most:
        if matcher.done:
            return vocabulary.text(ids)
        for token in matcher.forced(16) or [_draw(vocabulary, matcher, random, len(ids))]:
            if token == vocabulary.end:
                return vocabulary.text(ids)
            matcher.accept(token)
            ids.append(token)
    return None


def _draw(vocabulary: Vocabulary, matcher: Matcher, random: Generator, length: int) -> int:
    """Any allowed token; the longer the text, the sooner one that closes something, and ends it."""
    ids = np.array(allowed(matcher.masks([])[0]))
    if vocabulary.end in ids and random.random() < 0.1 + length / 50:
        return vocabulary.end
    closing = vocabulary.closing[ids]
    weights = np.where(closing, 1 + length / 4, 1.0)
    if length > 150:
        weights = np.where(closing, 100.0, 1.0) / (1 + vocabulary.lengths[ids]) ** 2
    return int(random.choice(ids, p=weights / weights.sum()))


def complaint(schema: Any, text: str) -> str | None:
    """What `jsonschema`, formats included, has against a text; None if nothing."""
    cls = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        instance = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    error = next(cls(schema, format_checker=cls.FORMAT_CHECKER).iter_errors(instance), None)
    return None if error is None else error.message
