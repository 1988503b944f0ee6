"""How a request wants its tokens chosen, and where it wants to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deepseek.core.errors import AdmissionError

MAX_STOP_STRINGS = 16
MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """One request's sampling and stopping rules; checked when made, so a bad value never reaches the engine.

    max_tokens: tokens to generate at most, per choice.
    temperature: 0 is greedy; otherwise logits are divided by it.
    top_p: keep the smallest set of tokens whose probability reaches it (1 keeps all).
    top_k: keep the k most probable tokens (0 keeps all). Applied before top_p.
    seed: key of the counter-based noise; None draws one, which is reported back.
    stop: strings that end the text; never part of it.
    stop_token_ids: ids that end the sequence; not part of the text.
    ignore_eos: go on past the end-of-sequence token (for measurements).
    logprobs: None for none, else how many alternatives to report beside each chosen token.
    n: choices to generate for one prompt.

    Raises AdmissionError naming the field.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1

    def __post_init__(self) -> None:
        stop: object = self.stop  # callers hand over a single string, or a list
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else tuple(self.stop))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        _require_int("max_tokens", self.max_tokens, low=1)
        _require_float("temperature", self.temperature, low=0.0, high=100.0)
        _require_float("top_p", self.top_p, low=0.0, high=1.0, low_open=True)
        _require_int("top_k", self.top_k, low=0)
        if self.seed is not None:
            _require_int("seed", self.seed, low=0, high=MAX_SEED)
        if self.logprobs is not None:
            _require_int("logprobs", self.logprobs, low=0, high=MAX_TOP_LOGPROBS)
        _require_int("n", self.n, low=1, high=64)
        if len(self.stop) > MAX_STOP_STRINGS:
            raise AdmissionError(
                "too many stop strings", where="stop", found=len(self.stop), expected=f"at most {MAX_STOP_STRINGS}"
            )
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise AdmissionError("stop strings must be non-empty text", where="stop", found=repr(text))
        for token in self.stop_token_ids:
            _require_int("stop_token_ids", token, low=0)


def _require_int(name: str, value: object, *, low: int, high: int | None = None) -> None:
    expected = f"an integer >= {low}" if high is None else f"an integer between {low} and {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise AdmissionError("out of range", where=name, found=repr(value), expected=expected)


def _require_float(name: str, value: object, *, low: float, high: float, low_open: bool = False) -> None:
    expected = f"a number in {'(' if low_open else '['}{low:g}, {high:g}]"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdmissionError("not a finite number", where=name, found=repr(value), expected=expected)
    if value < low or value > high or (low_open and value == low):
        raise AdmissionError("out of range", where=name, found=repr(value), expected=expected)
