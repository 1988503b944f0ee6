"""How a request wants its tokens chosen, and where it wants to stop.

The fields mean what they mean in OpenAI's API, vLLM and transformers, where those have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from deepseek.core.errors import AdmissionError

MAX_STOP_STRINGS = 16
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 4096
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_LENGTH = 256
MAX_BAD_WORD_CHARS = 32_768
"""Of all bad words together: they are tokenised before the request is admitted."""
MAX_SEED = 2**63 - 1
MAX_TOKEN_ID = 2**31 - 1

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """One request's sampling and stopping rules; checked when made, so a bad value never reaches the engine.

    What changes the logits is applied in this order: logit bias and bans, penalties, the request's grammar,
    temperature, top-k, top-p, min-p. Reported log-probabilities are those of the model itself, at temperature 1
    and before any of it.

    max_tokens: tokens to generate at most, per choice; 0 only scores the prompt and needs prompt_logprobs.
    temperature: 0 is greedy; otherwise logits are divided by it.
    top_p: keep the smallest set of tokens whose probability reaches it (1 keeps all).
    top_k: keep the k most probable tokens (0 keeps all). Applied before top_p.
    seed: key of the counter-based noise; None draws one, which is reported back.
    stop: strings that end the text; never part of it.
    stop_token_ids: ids that end the sequence; not part of the text.
    ignore_eos: go on past the end-of-sequence token (for measurements).
    logprobs: None for none, else how many alternatives to report beside each chosen token.
    n: choices to generate for one prompt.
    min_p: drop tokens less probable than this share of the most probable one (0 keeps all). Applied after top_p.
    frequency_penalty: taken off a token's logit for each time it stands in the output.
    presence_penalty: taken off a token's logit once it stands in the output.
    repetition_penalty: divides a positive logit, multiplies a negative one, of tokens in prompt or output (1 is off).
    logit_bias: added to the logits of these ids, -100 to 100, or -inf to ban; a mapping, or pairs. Kept as sorted pairs.
    bad_words: texts not to generate, by their tokens with and without a space before (see `with_bad_words_as_ids`).
    bad_word_ids: token sequences not to generate: the last id is banned wherever the others, in the prompt or
        the output, come right before it.
    min_tokens: no end-of-sequence and no stop id before that many tokens, unless a grammar allows nothing else.
    prompt_logprobs: None for none, else how many alternatives to report beside each token of the prompt.
    skip_special_tokens: leave control tokens out of the text; False shows them, and says where they stand.

    None for a sequence field means an empty one. Raises AdmissionError naming the field.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: TokenIds = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[str, ...] = ()
    bad_word_ids: tuple[TokenIds, ...] = ()
    min_tokens: int = 0
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name, value in (
            ("stop", _texts("stop", self.stop, MAX_STOP_STRINGS)),
            ("stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids)),
            ("logit_bias", _bias(self.logit_bias)),
            ("bad_words", _texts("bad_words", self.bad_words, MAX_BAD_WORDS)),
            ("bad_word_ids", _bad_word_ids(self.bad_word_ids)),
        ):
            object.__setattr__(self, name, value)
        chars = sum(map(len, self.bad_words))
        if chars > MAX_BAD_WORD_CHARS:
            raise AdmissionError(
                "too long together", where="bad_words", found=chars, expected=f"at most {MAX_BAD_WORD_CHARS} characters"
            )
        _require_int("max_tokens", self.max_tokens, low=0)
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            raise AdmissionError(
                "nothing to generate and nothing to score",
                where="max_tokens",
                found="0",
                expected="an integer >= 1",
                fix="set prompt_logprobs to score the prompt alone",
            )
        _require_float("temperature", self.temperature, low=0.0, high=100.0)
        _require_float("top_p", self.top_p, low=0.0, high=1.0, low_open=True)
        _require_int("top_k", self.top_k, low=0)
        _require_float("min_p", self.min_p, low=0.0, high=1.0)
        if self.seed is not None:
            _require_int("seed", self.seed, low=0, high=MAX_SEED)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _require_int(name, getattr(self, name), low=0, high=MAX_TOP_LOGPROBS)
        _require_int("n", self.n, low=1, high=64)
        if self.n > 1 and self.max_tokens == 0:
            raise AdmissionError("the prompt is scored once", where="n", found=self.n, expected="1 beside max_tokens 0")
        _require_float("frequency_penalty", self.frequency_penalty, low=-2.0, high=2.0)
        _require_float("presence_penalty", self.presence_penalty, low=-2.0, high=2.0)
        _require_float("repetition_penalty", self.repetition_penalty, low=0.01, high=100.0)
        _require_int("min_tokens", self.min_tokens, low=0)
        if self.min_tokens > self.max_tokens:
            raise AdmissionError(
                "more than max_tokens", where="min_tokens", found=self.min_tokens, expected=f"at most {self.max_tokens}"
            )

    @property
    def has_penalties(self) -> bool:
        """Whether a token's logit depends on which tokens came before."""
        return self.frequency_penalty != 0.0 or self.presence_penalty != 0.0 or self.repetition_penalty != 1.0


def with_bad_words_as_ids(params: SamplingParams, encode: Callable[[str], Sequence[int]]) -> SamplingParams:
    """`params` with its `bad_words` turned into `bad_word_ids`: each word's tokens as it is, and after a space.

    encode: the tokenizer's, without special tokens. The form after a space is the one inside a text, often spelt
    with other tokens (vLLM drops it where their number differs, and then lets the word through). It is left out
    where the plain one ends it and so catches it anyway. Raises AdmissionError for a word that has no tokens.
    """
    if not params.bad_words:
        return params
    found: dict[TokenIds, None] = dict.fromkeys(params.bad_word_ids)
    for text in params.bad_words:
        word = text.lstrip(" ") or text
        plain, spaced = tuple(encode(word)), tuple(encode(" " + word))
        if not plain:
            raise AdmissionError("this text has no tokens", where="bad_words", found=repr(text))
        found[plain] = None
        if spaced[-len(plain) :] != plain:
            found[spaced] = None
    return replace(params, bad_words=(), bad_word_ids=tuple(found))


def require_known_ids(params: SamplingParams, vocab_size: int) -> None:
    """Raise AdmissionError for a logit bias or a bad word on an id that the model does not have."""
    for name, ids in (
        ("logit_bias", (token for token, _ in params.logit_bias)),
        ("bad_word_ids", (token for word in params.bad_word_ids for token in word)),
    ):
        unknown = next((token for token in ids if token >= vocab_size), None)
        if unknown is not None:
            raise AdmissionError(
                "not a token id of this model", where=name, found=unknown, expected=f"0 to {vocab_size - 1}"
            )


def _listed(name: str, value: object, expected: str) -> tuple[object, ...]:
    """A list-like value as a tuple. Text and bytes are iterable too, and never what is meant."""
    if value is None or value == ():
        return ()
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        raise AdmissionError("not a list", where=name, found=repr(value), expected=expected)
    return tuple(sorted(value, key=repr) if isinstance(value, AbstractSet) else value)


def _texts(name: str, value: object, most: int) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else _listed(name, value, "text or a list of texts")
    if len(texts) > most:
        raise AdmissionError("too many texts", where=name, found=len(texts), expected=f"at most {most}")
    checked = []
    for text in texts:
        if not isinstance(text, str) or not text:
            raise AdmissionError("must be non-empty text", where=name, found=repr(text))
        checked.append(text)
    return tuple(checked)


def _token_ids(name: str, value: object) -> TokenIds:
    return tuple(_require_int(name, token, low=0, high=MAX_TOKEN_ID) for token in _listed(name, value, "a list of ids"))


def _bad_word_ids(value: object) -> tuple[TokenIds, ...]:
    name = "bad_word_ids"
    words = tuple(_token_ids(name, word) for word in _listed(name, value, "a list of lists of ids"))
    if len(words) > 2 * MAX_BAD_WORDS:  # each bad word has up to two spellings
        raise AdmissionError("too many", where=name, found=len(words), expected=f"at most {2 * MAX_BAD_WORDS}")
    for word in words:
        if not 1 <= len(word) <= MAX_BAD_WORD_LENGTH:
            raise AdmissionError(
                "out of range", where=name, found=f"{len(word)} ids", expected=f"1 to {MAX_BAD_WORD_LENGTH} ids"
            )
    return words


def _bias(value: object) -> tuple[tuple[int, float], ...]:
    name = "logit_bias"
    pairs = tuple(value.items()) if isinstance(value, Mapping) else _listed(name, value, "ids and their biases")
    if len(pairs) > MAX_LOGIT_BIAS:
        raise AdmissionError("too many ids", where=name, found=len(pairs), expected=f"at most {MAX_LOGIT_BIAS}")
    biases: dict[int, float] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise AdmissionError("not a pair", where=name, found=repr(pair), expected="(id, bias)")
        token, bias = _require_int(name, pair[0], low=0, high=MAX_TOKEN_ID), pair[1]
        if token in biases:
            raise AdmissionError("an id stands there twice", where=name, found=token)
        if bias != -math.inf:
            _require_float(name, bias, low=-100.0, high=100.0)
        biases[token] = float(bias)
    return tuple(sorted(biases.items()))


def _require_int(name: str, value: object, *, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        expected = f"an integer >= {low}" if high is None else f"an integer between {low} and {high}"
        raise AdmissionError("out of range", where=name, found=repr(value), expected=expected)
    return value


def _require_float(name: str, value: object, *, low: float, high: float, low_open: bool = False) -> None:
    numeric = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if numeric and low <= value <= high and not (low_open and value == low):  # type: ignore[operator]
        return
    expected = f"a number in {'(' if low_open else '['}{low:g}, {high:g}]"
    what = "out of range" if numeric else "not a finite number"
    raise AdmissionError(what, where=name, found=repr(value), expected=expected)
