"""Texts drawn at random from the grammar that a schema compiles to, as a model without any sense would write them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import llguidance
import numpy as np
from numpy.random import default_rng

from deepseek.core.constraint import Constraint
from deepseek.engine.grammar.limits import build
from deepseek.engine.grammar.matcher import CompiledGrammar
from deepseek.engine.grammar.source import grammar_source
from deepseek.engine.grammar.vocabulary import grammar_vocabulary

_TOKENS = [*(bytes([i]) for i in range(256)), b'{"', b'": ', b'", "', b'"}', b""]
_END = len(_TOKENS) - 1


@cache
def _vocabulary() -> llguidance.LLTokenizer:
    return grammar_vocabulary(_TOKENS, (_END,))


def drawn_text(schema: Mapping[str, Any], seed: int, most: int = 2000) -> str:
    """A finished text; the longer it grows, the more it tends to what closes something. Raises AdmissionError."""
    grammar = CompiledGrammar(
        build(_vocabulary(), grammar_source(Constraint.json_schema(schema))), len(_TOKENS), (_END,)
    )
    random, matcher, text = default_rng(seed), grammar.matcher(), b""
    for length in range(most):
        if matcher.done:
            break
        mask = matcher.masks([])[0]
        ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        if _END in ids:
            break
        closing = np.array([any(c in b'}]"' for c in _TOKENS[i]) for i in ids])
        weights = np.where(closing, 1 + length / 4, 1.0)
        token = int(random.choice(ids, p=weights / weights.sum()))
        matcher.accept(token)
        text += _TOKENS[token]
    else:
        raise AssertionError(f"not finished after {most} tokens: {text!r}")
    return text.decode()
