"""How much a grammar may take: to compile, and at each token."""

from __future__ import annotations

import random
import time

import llguidance
import numpy as np

from deepseek.engine.grammar.matcher import GrammarError, call_guarded

# Mask computations that take longer than this hold up every other request's step.
SLOWEST_MASK_S = 0.5
# The compiler recurses along references; where this stack is exceeded the process ends, so it must not be the engine.
PROBE_STACK_BYTES = 4 << 20
_TRIAL_TOKENS = 48
_TRIAL_S = 0.3


def parser_limits() -> llguidance.LLParserLimits:
    """llguidance's own limits: work per step (1,000 units are about 0.07 ms), states kept (about 1.5 kB each), size."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_items_in_row=2_000,
        max_lexer_states=50_000,
        max_grammar_size=500_000,
        verbose_errors=False,
    )


def build(vocabulary: llguidance.LLTokenizer, source: str) -> llguidance.LLMatcher:
    """Compile a grammar and compute its first mask. Raises GrammarError."""
    matcher = llguidance.LLMatcher(vocabulary, source, log_level=0, limits=parser_limits())
    call_guarded(matcher, lambda: None)
    try:
        call_guarded(matcher, matcher.compute_bitmask)
    except GrammarError as error:
        if error.found == "NoExtensionBias":
            raise GrammarError("the grammar allows no text at all", where="grammar", found="no first token") from error
        raise
    return matcher


def slowest_mask_s(root: llguidance.LLMatcher) -> float:
    """The longest that a mask takes of the processor, along a short text of random tokens. Raises GrammarError."""
    matcher = root.deep_copy()
    choose = random.Random(0)
    slowest, started = 0.0, time.thread_time()
    for _ in range(_TRIAL_TOKENS):
        begun = time.thread_time()
        if matcher.is_stopped() or begun - started > _TRIAL_S:
            break
        mask = np.frombuffer(call_guarded(matcher, matcher.compute_bitmask), dtype=np.uint8)
        slowest = max(slowest, time.thread_time() - begun)
        token = choose.choice(np.flatnonzero(np.unpackbits(mask, bitorder="little")))
        if not call_guarded(matcher, lambda: matcher.try_consume_tokens([int(token)])):  # noqa: B023
            break  # a token that ends the sequence
    return slowest
