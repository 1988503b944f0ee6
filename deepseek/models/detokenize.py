"""From token ids back to text, all at once or as they come.

A token is a piece of bytes, not of text: a Chinese character or an emoji is often spread over several
tokens. `Detokenizer` therefore emits only text that no later token can change, so a stream never
shows half a character, and what was shown is exactly the beginning of what `Tokenizer.decode` says
of all ids together.

Two families of tokenizers are understood:

* *byte-level* (GPT-2, DeepSeek, Llama 3, Qwen): each character of a token stands for one byte. An
  incremental UTF-8 decoder is all it takes.
* *metaspace with byte fallback* (SentencePiece, Llama 2): tokens are text with "▁" for a space, and a
  character without a token of its own is spelled `<0xE4><0xBD><0xA0>`. A run of such bytes is decoded
  as a whole (one bad byte spoils the run), so a run is held back until it ends. Other tokens are
  decoded in a short window that begins with text already emitted, because the first token of a
  decoded list loses its leading space.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

from deepseek.core.errors import TokenizerError

DecoderKind = Literal["byte_level", "window"]

BYTE_FALLBACK_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_FIX_DECODER = "use a byte-level BPE tokenizer, or a metaspace BPE tokenizer with byte fallback"


class TokenTable(Protocol):
    """What a detokenizer needs of a tokenizer."""

    @property
    def decoder_kind(self) -> DecoderKind: ...

    def shown_token(self, token_id: int, skip_special: bool) -> str | None:
        """The token as the vocabulary spells it; None if it is unknown, or special and to be skipped."""
        ...

    def is_control(self, token_id: int) -> bool:
        """Whether the token structures the sequence; asked only where special tokens are shown."""
        ...

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str: ...


class Detokenizer:
    """Turns one choice's token ids into text as they arrive. Amortised O(1) for each token.

    For every way of cutting `ids` into pushes, the pushed texts and `flush()` joined are
    `tokenizer.decode(ids, skip_special)`.
    """

    def __init__(self, tokenizer: TokenTable, skip_special: bool = True) -> None:
        self._stream: _ByteStream | _WindowStream
        self._controls: _ControlStream | None = None
        kind = _ByteStream if tokenizer.decoder_kind == "byte_level" else _WindowStream
        self._stream = kind(tokenizer, skip_special)
        if not skip_special:
            self._controls = _ControlStream(tokenizer, self._stream)

    def push(self, ids: Sequence[int]) -> str:
        """Text that has become final with these ids; often empty."""
        return self._stream.push(ids) if self._controls is None else self._controls.push(ids)

    def flush(self) -> str:
        """The rest at the end of the sequence. Bytes that never became a character show as U+FFFD."""
        return self._stream.flush()

    def controls(self) -> list[int]:
        """Where control tokens begin that were pushed since the last call, counted in all the text pushed so far.

        Empty where special tokens are skipped.
        """
        return [] if self._controls is None else self._controls.take()


class _ControlStream:
    """Notes where control tokens come out of a stream: in text that is final, for such a token completes what was held."""

    def __init__(self, tokenizer: TokenTable, stream: _ByteStream | _WindowStream) -> None:
        self._tokenizer, self._stream = tokenizer, stream
        self._length = 0
        self._found: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        pieces, waiting = [], 0
        for index, token_id in enumerate(ids):
            if not self._tokenizer.is_control(token_id):
                continue
            pieces.append(self._stream.push(ids[waiting:index]))
            literal = self._stream.push(ids[index : index + 1])
            # Bytes of half a character before it come out with it, as U+FFFD.
            alone = self._tokenizer.decode([token_id], skip_special=False)
            at = len(literal) - len(alone) if literal.endswith(alone) else 0
            self._found.append(self._length + len(pieces[-1]) + at)
            pieces.append(literal)
            self._length += len(pieces[-2]) + len(literal)
            waiting = index + 1
        pieces.append(self._stream.push(ids[waiting:]))
        self._length += len(pieces[-1])
        return "".join(pieces)

    def take(self) -> list[int]:
        found, self._found = self._found, []
        return found


class _ByteStream:
    def __init__(self, tokenizer: TokenTable, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        tokens = (self._tokenizer.shown_token(token_id, self._skip_special) for token_id in ids)
        return self._utf8.decode(b"".join(byte_level_bytes(token) for token in tokens if token is not None))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowStream:
    """`_shown` are the last ids already emitted, `_held` a trailing run of byte tokens not yet decided."""

    def __init__(self, tokenizer: TokenTable, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._shown: list[int] = []
        self._shown_text = ""
        self._held: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        settled = 0
        for token_id in ids:
            token = self._tokenizer.shown_token(token_id, self._skip_special)
            if token is None:
                continue
            self._held.append(token_id)
            if not BYTE_FALLBACK_TOKEN.fullmatch(token):
                settled = len(self._held)
        return self._emit(settled)

    def flush(self) -> str:
        return self._emit(len(self._held))

    def _emit(self, count: int) -> str:
        if not count:
            return ""
        fresh, self._held = self._held[:count], self._held[count:]
        window = self._shown + fresh
        window_text = self._decode(window)
        text = window_text[len(self._shown_text) :]
        # The window starts anew at `fresh` only if that carries text by itself: behind an empty prefix
        # the decoder would strip a leading space a second time.
        fresh_text = self._decode(fresh)
        self._shown, self._shown_text = (fresh, fresh_text) if fresh_text else (window, window_text)
        return text

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=False)


def decoder_kind(decoder: object, where: str) -> DecoderKind:
    """Which family a `tokenizer.json` "decoder" entry belongs to.

    Raises TokenizerError for a decoder whose text at one token may depend on later ones, because that
    cannot be streamed.
    """
    if decoder is None:
        return "window"
    kinds = _flatten(decoder)
    if "ByteLevel" in kinds and set(kinds) <= {"ByteLevel", "Fuse"} and kinds[0] == "ByteLevel":
        return "byte_level"
    streamable = set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    after_fuse = kinds[kinds.index("Fuse") + 1 :] if "Fuse" in kinds else []
    if not kinds or not streamable or "Replace" in after_fuse or _strips_the_end(decoder):
        raise TokenizerError(
            "cannot stream text with this decoder",
            where=where,
            found=" + ".join(kinds) or repr(decoder)[:80],
            expected="ByteLevel, or Metaspace, Replace, ByteFallback, Fuse and a leading Strip",
            fix=_FIX_DECODER,
        )
    return "window"


def token_bytes(token: str, kind: DecoderKind) -> bytes:
    """The bytes a token stands for on its own, a leading space included."""
    if kind == "byte_level":
        return byte_level_bytes(token)
    if match := BYTE_FALLBACK_TOKEN.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace("▁", " ").encode()


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a byte-level token. A token outside the byte alphabet (an added one) stands for its own text."""
    table = _byte_of_character()
    try:
        return bytes([table[character] for character in token])
    except KeyError:
        return token.encode()


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes are moved to U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(moved)}


def _flatten(decoder: object) -> list[str]:
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") == "Sequence":
        return [kind for inner in decoder.get("decoders", []) for kind in _flatten(inner)]
    return [str(decoder.get("type"))]


def _strips_the_end(decoder: object) -> bool:
    if not isinstance(decoder, dict):
        return False
    if any(_strips_the_end(inner) for inner in decoder.get("decoders", [])):
        return True
    return decoder.get("type") == "Strip" and decoder.get("stop", 0) != 0
