"""Text to token ids and back, read from a Hugging Face model directory.

`tokenizer.json` says how text is cut, `tokenizer_config.json` which tokens begin and end a sequence,
`chat_template.jinja` (or the `chat_template` field) how a conversation is written, and
`generation_config.json` and `config.json` which ids end an answer.

A vocabulary has two kinds of tokens. *Ordinary* ones spell text. *Control* ones (`<｜User｜>`,
`<｜end▁of▁sentence｜>`, `<think>`) structure the sequence, and must never come out of text that somebody
typed. The `special` flag does not tell them apart: DeepSeek's own files leave it off for `<｜User｜>`.
So every added token counts as control, but for unflagged single characters and white space, which some
tokenizers add as plain vocabulary. `encode` uses a copy of the tokenizer in which control tokens do not
exist; whoever means one passes its id (see `deepseek.chat.template`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseek.core.errors import AdmissionError, TokenizerError
from deepseek.models.detokenize import DecoderKind, decoder_kind, token_bytes
from deepseek.models.tokenizer_files import TokenizerFiles, continuation_json, hf_tokenizer, ordinary_json

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that structures a sequence. `lstrip` and `rstrip` swallow white space beside it in a template."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False


class Tokenizer:
    """A tokenizer and what belongs to it. Made by `from_dir`; immutable, may be shared between threads.

    bos_id, eos_id, pad_id: ids, or None where the model has no such token.
    eos_ids: every id that ends an answer, in no particular order, never repeated.
    add_bos, add_eos: what the model's files ask for around a raw text.
    named_tokens: what chat templates see, e.g. {"bos_token": "<｜begin▁of▁sentence｜>"}.
    control_tokens: literal to ControlToken.
    chat_template: jinja source, or None.
    vocab_size: one more than the largest id.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        self.source = files.directory
        self._where = files.directory / "tokenizer.json"
        self._full = hf_tokenizer(files.tokenizer, self._where)
        self.decoder_kind: DecoderKind = decoder_kind(files.tokenizer.get("decoder"), str(self._where))
        self.named_tokens = files.named_tokens()
        added = {token.content for token in self._full.get_added_tokens_decoder().values()}
        # Named tokens that the file lists as ordinary vocabulary are cut out of text like added ones.
        unlisted = [token for token in self.named_tokens.values() if token not in added]
        self._full.add_special_tokens([token for token in unlisted if self._full.token_to_id(token) is not None])
        self.control_tokens = self._find_control_tokens()
        self._control_by_id = {token.id: token for token in self.control_tokens.values()}
        self.chat_template = files.chat_template()

        # Copies without control tokens: for text that begins a sequence, and for text further on.
        control = set(self.control_tokens)
        self._ordinary = hf_tokenizer(ordinary_json(files.tokenizer, control), self._where)
        continuation = continuation_json(files.tokenizer)
        self._continuation = self._ordinary
        if continuation is not None:
            self._continuation = hf_tokenizer(ordinary_json(continuation, control), self._where)

        self.bos_id = self._named_id("bos_token")
        self.eos_id = self._named_id("eos_token")
        self.pad_id = self._named_id("pad_token")
        own_eos = [] if self.eos_id is None else [self.eos_id]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(own_eos + files.eos_ids()))
        self.add_bos = files.flag("add_bos_token", self._processor_adds(self.bos_id, 0)) and self.bos_id is not None
        self.add_eos = files.flag("add_eos_token", self._processor_adds(self.eos_id, -1)) and self.eos_id is not None
        self.vocab_size = 1 + max(self._full.get_vocab(with_added_tokens=True).values(), default=-1)

    @classmethod
    def from_dir(cls, path: str | Path) -> Tokenizer:
        """Read a model directory. Raises TokenizerError naming the file and what is wrong with it."""
        return cls(TokenizerFiles.read(Path(path)))

    def encode(self, text: str, add_bos: bool = True, *, parse_control: bool = False) -> list[int]:
        """Token ids of a raw text, preceded by the beginning-of-sequence id if the model uses one.

        Control tokens spelled in `text` stay text. `parse_control` turns them into ids: only for text that
        this program wrote itself, such as rendered training samples.
        Raises AdmissionError if `text` is not valid Unicode.
        """
        require_unicode(text)
        encoder = self._full if parse_control else self._ordinary
        ids = encoder.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids] if add_bos and self.add_bos and self.bos_id is not None else ids

    def encode_piece(self, text: str, *, at_start: bool) -> list[int]:
        """Ids of text between control tokens, with control tokens disabled; `at_start` of the whole sequence or not.

        Some metaspace tokenizers put a space before the first piece only.
        """
        require_unicode(text)
        encoder = self._ordinary if at_start else self._continuation
        return encoder.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids. Tokens flagged special are left out if asked; unknown ids are ignored."""
        return self._full.decode(list(ids), skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for, control tokens as their literal. Raises TokenizerError for an unknown id."""
        if token_id in self._control_by_id:
            return self._control_by_id[token_id].content.encode()
        return token_bytes(self._require_token(token_id), self.decoder_kind)

    def shown_token(self, token_id: int, skip_special: bool) -> str | None:
        """The token as the vocabulary spells it; None if it is unknown, or special and to be skipped."""
        if skip_special and token_id in self._control_by_id and self._control_by_id[token_id].special:
            return None
        return self._full.id_to_token(token_id)

    def is_control(self, token_id: int) -> bool:
        """Whether the token structures a sequence instead of spelling text."""
        return token_id in self._control_by_id

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self._full.token_to_id(token)

    def check_fits(self, vocab_size: int) -> None:
        """Raise TokenizerError unless every id has a row in an embedding of `vocab_size` rows.

        Spare rows are usual: vocabularies are padded for the hardware's sake.
        """
        if self.vocab_size <= vocab_size:
            return
        beyond = {token: i for token, i in self._full.get_vocab(with_added_tokens=True).items() if i >= vocab_size}
        example = min(beyond, key=lambda token: beyond[token])
        raise TokenizerError(
            "the tokenizer does not match the model's embedding",
            where=self._where,
            found=f"{len(beyond)} ids from {beyond[example]} ({example!r}) to {self.vocab_size - 1} without a row",
            expected=f"ids below {vocab_size} (vocab_size in config.json)",
            fix="use the tokenizer files that came with this checkpoint",
        )

    def _find_control_tokens(self) -> Mapping[str, ControlToken]:
        named = set(self.named_tokens.values())
        found = {}
        for token_id, token in sorted(self._full.get_added_tokens_decoder().items()):
            plain_vocabulary = len(token.content) == 1 or token.content.isspace()
            if token.special or token.content in named or not plain_vocabulary:
                found[token.content] = ControlToken(token_id, token.content, token.special, token.lstrip, token.rstrip)
        return found

    def _named_id(self, name: str) -> int | None:
        content = self.named_tokens.get(name)
        if content is None:
            return None
        token_id = self._full.token_to_id(content)
        if token_id is None:
            raise TokenizerError(
                f"{name} is not in the vocabulary",
                where=self.source / "tokenizer_config.json",
                found=repr(content),
                expected="a token of tokenizer.json",
                fix="use the tokenizer files that came with this checkpoint",
            )
        return token_id

    def _processor_adds(self, token_id: int | None, position: int) -> bool:
        """Whether tokenizer.json's own post-processor puts this id at the given end of a text."""
        ids = self._full.encode("").ids
        return bool(ids) and token_id is not None and ids[position] == token_id

    def _require_token(self, token_id: int) -> str:
        token = self._full.id_to_token(token_id)
        if token is None:
            raise TokenizerError(
                "no such token id", where=self._where, found=token_id, expected=f"0 to {self.vocab_size - 1}"
            )
        return token


def require_unicode(text: str) -> None:
    """Raise AdmissionError for text with a lone surrogate (half of a UTF-16 pair): no tokenizer can encode it."""
    if match := _SURROGATE.search(text):
        raise AdmissionError(
            "the text is not valid Unicode",
            where=f"character {match.start()}",
            found=f"lone surrogate U+{ord(match[0]):04X}",
            fix="send the whole character, or U+FFFD in its place",
        )
