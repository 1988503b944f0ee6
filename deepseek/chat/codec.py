"""One model's text codec: prompts and conversations to token ids, answers to deltas. What a front needs of a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deepseek.chat import encoding_v4
from deepseek.chat.bound import bound
from deepseek.chat.calls import NewId, new_call_id
from deepseek.chat.forced import tool_constraint
from deepseek.chat.formats import format_of, markup_of
from deepseek.chat.markup import THINK_BEGIN, THINK_END
from deepseek.chat.parsing import PlainParser, StreamParser
from deepseek.chat.template import ChatTemplate, encode_pieces
from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError, TokenizerError
from deepseek.core.messages import Message, TextPart, ToolChoice, ToolSpec
from deepseek.models.tokenizer import Tokenizer

_TOOLS = re.compile(r"\btools\b")


class TextCodec:
    """Immutable; may be shared between threads. A model without a chat template still completes raw prompts.

    calls: the name of the format in which the model writes tool calls (`deepseek.chat.formats`); by default what its
    template shows. new_id: makes the ids of calls. Raises ConfigError for a name that is none, TokenizerError for a
    template that cannot be used.
    """

    def __init__(self, tokenizer: Tokenizer, *, calls: str | None = None, new_id: NewId = new_call_id) -> None:
        self.tokenizer = tokenizer
        self.calls = calls or format_of(tokenizer.chat_template, tuple(tokenizer.control_tokens))
        self._new_id = new_id
        self._markup = markup_of(tokenizer, self.calls)
        self._template = ChatTemplate.from_tokenizer(tokenizer) if tokenizer.chat_template else None
        # DeepSeek-V4 came without a template: its encoding is a program.
        self._by_program = self._template is None and self.calls == "deepseek-v4"
        self._shows_tools = self._by_program or _TOOLS.search(tokenizer.chat_template or "") is not None
        self._endings: Mapping[bool, str] = {thinking: self._ending(thinking) for thinking in (False, True)}

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it answers, if it is asked to."""
        return self._endings[True] == THINK_BEGIN

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt. Control tokens in it stay text; the model's own beginning is added."""
        return self.tokenizer.encode(text)

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, thinking: bool = False
    ) -> list[int]:
        """Ids of a conversation up to where the assistant speaks. Raises TokenizerError where there is no template.

        thinking: whether to think first, where the template leaves it open. Raises AdmissionError for tools that the
        template would not show.
        """
        if tools and not self._shows_tools:
            raise AdmissionError(
                "this model's chat template does not show tools",
                where="tools",
                fix="leave them out, or put a chat_template.jinja that writes them beside its tokenizer.json",
            )
        return encode_pieces(self.tokenizer, self._pieces(messages, tools, thinking))

    def parser(self, tools: bool, thinking: bool) -> StreamParser:
        """A fresh parser for one choice of an answer.

        But for a `PlainParser`, it has to see control tokens (`skip_special_tokens=False`).
        """
        if not (self._markup.thinks or (tools and self._markup.calls)):
            return PlainParser()
        ending = self._endings[thinking]
        return self._markup.parser(
            tools=tools, thinking=ending == THINK_BEGIN, answering=ending == THINK_END, new_id=self._new_id
        )

    def tool_constraint(
        self,
        tools: Sequence[ToolSpec],
        choice: ToolChoice,
        parallel: bool,
        *,
        thinking: bool = False,
        bind: bool = False,
    ) -> Constraint | None:
        """What the answer must match so that the choice of tools is kept; None where nothing has to be enforced.

        parallel: whether there may be more than one call. thinking: as in `encode_chat`; it ends before a forced
        call. bind: whatever call the model chooses to make has to fit its tool (see `forced.tool_constraint`).
        Raises AdmissionError where the choice cannot be enforced.
        """
        ids = {literal: token.id for literal, token in self.tokenizer.control_tokens.items()}
        opened = self._endings[thinking] == THINK_BEGIN
        return tool_constraint(self.calls, ids, tools, choice, parallel, thinking=opened, bind=bind)

    def answer_constraint(
        self, text: Constraint, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        """What the whole answer must match, where its text must match something: the text, or calls instead of it.

        Raises AdmissionError where that cannot be enforced together.
        """
        calls = None
        if tools and choice != "none":
            calls = self.tool_constraint(tools, "required" if choice == "auto" else choice, parallel, thinking=thinking)
            if choice != "auto":
                return calls  # a call is demanded, so there is no text
        end = self.tokenizer.control_tokens.get(THINK_END) if self._endings[thinking] == THINK_BEGIN else None
        return bound(text, calls, None if end is None else ["token", end.id])

    def thinking_end(self) -> int | None:
        """The token that closes the thinking which a prompt opens; None where no prompt does."""
        end = self.tokenizer.control_tokens.get(THINK_END) if self.thinks else None
        return None if end is None else end.id

    def longest_text(self, tokens: int) -> int:
        """A number of characters that certainly takes more than `tokens` tokens, with room for what normalising drops."""
        spelt = (self.tokenizer.shown_token(token, skip_special=False) for token in range(self.tokenizer.vocab_size))
        return 4 * tokens * max(len(token.encode()) for token in spelt if token)

    def token_bytes(self, token_id: int) -> bytes:
        return self.tokenizer.token_bytes(token_id)

    def _pieces(self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: bool) -> list[tuple[str, bool]]:
        if self._by_program:
            return encoding_v4.pieces(messages, tools, tuple(self.tokenizer.control_tokens), thinking=thinking)
        if self._template is None:
            raise TokenizerError(
                "the model has no chat template",
                where=self.tokenizer.source,
                fix="use raw completion, or put a chat_template.jinja beside its tokenizer.json",
            )
        # DeepSeek's templates call it `thinking`, others `enable_thinking`.
        return self._template.pieces(messages, tools, thinking=thinking, enable_thinking=thinking)

    def _ending(self, thinking: bool) -> str:
        """The tag of thinking that a prompt ends with, or nothing."""
        try:
            pieces = self._pieces([Message("user", (TextPart("a"),))], (), thinking)
        except (AdmissionError, TokenizerError):
            return ""  # it wants another conversation, and will say so
        end = "".join(text for text, _ in pieces[-3:]).rstrip()
        return next((tag for tag in (THINK_BEGIN, THINK_END) if end.endswith(tag)), "")
