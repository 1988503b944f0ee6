"""A vocabulary as the grammar library wants it: the bytes each token stands for, and how text is cut into tokens.

Control tokens and ids without a token (vocabularies are padded) stand for no bytes, so no grammar ever allows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import llguidance

from deepseek.core.errors import ConfigError, TokenizerError


class GrammarTokenizer(Protocol):
    """What a grammar needs of a tokenizer; `deepseek.models.tokenizer.Tokenizer` has it."""

    @property
    def control_tokens(self) -> Mapping[str, Any]:
        """Literal to a token with an `id`."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Raises TokenizerError for an id without a token."""
        ...

    def encode_piece(self, text: str, *, at_start: bool) -> list[int]: ...


class _Vocabulary:
    """The form in which llguidance takes a tokenizer from Python."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(self, tokens: Sequence[bytes], eos_id: int, encode: Callable[[str], list[int]]) -> None:
        self.tokens = list(tokens)
        self.eos_token_id = eos_id
        self._encode = encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def text_bytes(tokenizer: GrammarTokenizer, vocab_size: int, eos_ids: Iterable[int]) -> list[bytes]:
    """What each id of the model's vocabulary adds to a text; nothing for control tokens, ends and padding."""
    silent = {token.id for token in tokenizer.control_tokens.values()} | set(eos_ids)
    table = []
    for token_id in range(vocab_size):
        try:
            table.append(b"" if token_id in silent else tokenizer.token_bytes(token_id))
        except TokenizerError:
            table.append(b"")
    return table


def grammar_vocabulary(
    tokens: Sequence[bytes], eos_ids: Sequence[int], encode: Callable[[str], list[int]] | None = None
) -> llguidance.LLTokenizer:
    """llguidance's form of a vocabulary. Takes about a second for 128,000 tokens.

    tokens: the bytes of each id, as `text_bytes` gives them. encode: cuts text into ids; by default the longest token
    is taken each time. Raises ConfigError if the model has no token that ends a sequence.
    """
    if not eos_ids or not all(0 <= token < len(tokens) for token in eos_ids):
        raise ConfigError(
            "a constraint needs a token that ends the sequence",
            found=f"end tokens {list(eos_ids)} in a vocabulary of {len(tokens)}",
            fix="set eos_token in tokenizer_config.json or eos_token_id in generation_config.json",
        )
    wrapper: Any = _Vocabulary(tokens, eos_ids[0], encode or _greedy(tokens))
    return llguidance.LLTokenizer(wrapper, eos_token=list(eos_ids))


def _greedy(tokens: Sequence[bytes]) -> Callable[[str], list[int]]:
    by_bytes = {token: token_id for token_id, token in enumerate(tokens) if token}
    longest = max(map(len, by_bytes), default=0)

    def encode(text: str) -> list[int]:
        data, position, ids = text.encode(), 0, []
        while position < len(data):
            for end in range(min(len(data), position + longest), position, -1):
                if data[position:end] in by_bytes:
                    ids.append(by_bytes[data[position:end]])
                    position = end
                    break
            else:
                return ids  # llguidance goes on by itself from here
        return ids

    return encode
