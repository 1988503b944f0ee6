"""One model's text codec: prompts and conversations to token ids, ids to bytes. What a front needs of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from deepseek.chat.template import ChatTemplate, encode_chat
from deepseek.core.errors import TokenizerError
from deepseek.core.messages import Message, ToolSpec
from deepseek.models.tokenizer import Tokenizer


class TextCodec:
    """Immutable; may be shared between threads. A model without a chat template still completes raw prompts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._template = ChatTemplate.from_tokenizer(tokenizer) if tokenizer.chat_template else None

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt. Control tokens in it stay text; the model's own beginning is added."""
        return self.tokenizer.encode(text)

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Ids of a conversation up to where the assistant speaks. Raises TokenizerError where there is no template."""
        if self._template is None:
            raise TokenizerError(
                "the model has no chat template",
                where=self.tokenizer.source,
                fix="use raw completion, or put a chat_template.jinja beside its tokenizer.json",
            )
        return encode_chat(self.tokenizer, self._template, messages, tools)

    def longest_text(self, tokens: int) -> int:
        """A number of characters that certainly takes more than `tokens` tokens, with room for what normalising drops."""
        spelt = (self.tokenizer.shown_token(token, skip_special=False) for token in range(self.tokenizer.vocab_size))
        return 4 * tokens * max(len(token.encode()) for token in spelt if token)

    def token_bytes(self, token_id: int) -> bytes:
        return self.tokenizer.token_bytes(token_id)
