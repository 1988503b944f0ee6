"""Conversations to token ids, by the chat template that came with the model.

A template is a jinja program that writes a conversation as one text, with control tokens between the
turns. Encoding that text as it is would let anyone who writes `<｜User｜>` in a message, a tool result or a
tool's name forge a turn. Here **only literals of the template's own source become control ids**;
everything else is encoded with control tokens disabled (`deepseek.chat.marks` says how they are told
apart). The text itself is what transformers would render: `content.split('</think>')[-1]` works as its
author meant it, on a `</think>` that a model wrote as on any other, and if such a `</think>` is printed
it is text, not an id.

As a check on that bookkeeping the template is rendered twice, without marks and with them, and the two
must agree. A template that takes its own literals apart in a way that cannot be followed is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template
from jinja2.exceptions import TemplateError

from deepseek.chat.budget import MAX_TEXT_CHARS, BudgetExceeded
from deepseek.chat.marks import MAX_MARKS, Marks
from deepseek.chat.sandbox import (
    ConversationRefused,
    JsonText,
    TemplateEnvironment,
    context_variables,
    strftime_at,
)
from deepseek.core.errors import AdmissionError, DeepSeekError, TokenizerError
from deepseek.core.messages import Message, TextPart, ThinkingPart, ToolCallPart, ToolResultPart, ToolSpec
from deepseek.models.tokenizer import Tokenizer, require_unicode

_RESERVED = {
    *("messages", "tools", "add_generation_prompt", "documents", "strftime_now"),
    *("dict", "joiner", "namespace", "raise_exception", "range"),
}
_MAX_VARIABLE_DEPTH = 64

Variables = Mapping[str, object]


class ChatTemplate:
    """One model's template, compiled. Immutable, may be shared between threads.

    source: jinja text. named_tokens: variables such as bos_token. literals: the control tokens to recognise.
    Raises TokenizerError if the template cannot be compiled.
    """

    def __init__(
        self, source: str, named_tokens: Mapping[str, str], literals: Sequence[str], where: object = "chat template"
    ) -> None:
        self._where = where
        self._named_tokens = dict(named_tokens)
        if len(literals) > MAX_MARKS:  # then one written with escapes goes unnoticed, and stays text
            literals = [literal for literal in literals if literal in source or literal in named_tokens.values()]
        if len(literals) > MAX_MARKS:
            raise TokenizerError(
                "too many control tokens in the template", where=where, found=len(literals), expected=MAX_MARKS
            )
        self._marks = Marks(literals)
        no_marks = Marks(())
        self._plain_template = self._compile(source, no_marks)
        self._marked_template = self._compile(source, self._marks)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """The template among a tokenizer's files. Raises TokenizerError if there is none, or it is unusable."""
        if tokenizer.chat_template is None:
            raise TokenizerError(
                "this model has no chat template, so it cannot hold a conversation",
                where=tokenizer.source,
                expected="chat_template.jinja, or chat_template in tokenizer_config.json",
                fix="add a chat_template.jinja beside tokenizer.json, or use raw completion",
            )
        template = cls(
            tokenizer.chat_template,
            tokenizer.named_tokens,
            tuple(tokenizer.control_tokens),
            where=f"{tokenizer.source}: chat template",
        )
        _check_assembled_tokens(tokenizer, template)
        return template

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> str:
        """The conversation as the template writes it: for people to read, not to be encoded.

        variables: switches the template knows, such as `thinking=True`; JSON values only.
        Raises AdmissionError if the conversation is not valid Unicode or the template refuses it, and
        TokenizerError if the template fails or does not end in good time.
        """
        context = self._context(messages, tools, add_generation_prompt, variables)
        return self._run(self._plain_template, context)

    def pieces(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        add_generation_prompt: bool = True,
        **variables: object,
    ) -> list[tuple[str, bool]]:
        """The rendered text cut into (text, False) and (control token of the template, True). Errors as `render`."""
        context = self._context(messages, tools, add_generation_prompt, variables)
        text = self._run(self._plain_template, context)
        marked_names = {name: self._marks.mark(token) for name, token in self._named_tokens.items()}
        marked_text = self._run(self._marked_template, {**context, **marked_names})
        if self._marks.plain(marked_text) != text:
            raise TokenizerError(
                "the template changes its own control tokens in a way that cannot be followed",
                where=self._where,
                fix="write control tokens as plain literals, and do not slice text that contains them",
            )
        return list(self._marks.pieces(marked_text))

    def _context(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], add_generation_prompt: bool, variables: Variables
    ) -> dict[str, object]:
        for name in variables:
            if name in _RESERVED or name in self._named_tokens or name.endswith("_token"):
                raise AdmissionError("this template variable cannot be set", where=name)
        tool_list = [_tool_dict(tool) for tool in tools] or None
        data = {"messages": message_dicts(messages), "tools": tool_list, **variables}
        _require_json(data, "messages", 0)
        return {
            **data,
            **self._named_tokens,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "strftime_now": strftime_at(datetime.now()),
        }

    def _compile(self, source: str, marks: Marks) -> Template:
        environment = TemplateEnvironment(marks)
        try:
            code = environment.compile_marked(source)
            return Template.from_code(environment, code, environment.make_globals(None))
        except Exception as error:
            # A hostile source can fail in the lexer, the parser, the optimizer and Python's compiler alike.
            raise self._unusable("cannot be compiled", error) from error

    def _run(self, template: Template, variables: Variables) -> str:
        pieces: list[str] = []
        length = 0
        try:
            for piece in template.root_render_func(template.new_context(context_variables(variables))):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_TEXT_CHARS:
                    raise BudgetExceeded(f"the template writes more than {MAX_TEXT_CHARS} characters")
        except ConversationRefused as error:
            raise AdmissionError(
                "the model's chat template refuses this conversation", where="messages", found=error.message
            ) from error
        except DeepSeekError:
            raise
        except Exception as error:
            raise self._unusable("failed", error) from error
        return "".join(pieces)

    def _unusable(self, what: str, error: Exception) -> TokenizerError:
        line = getattr(error, "lineno", None)
        said = error.message if isinstance(error, TemplateError) and error.message else str(error)
        return TokenizerError(
            what,
            where=self._where if line is None else f"{self._where} line {line}",
            found=f"{type(error).__name__}: {said[:200]}",
            fix="use the chat template that came with this checkpoint",
        )


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec] = (),
    add_generation_prompt: bool = True,
    **variables: object,
) -> list[int]:
    """Token ids of a conversation. Errors as `ChatTemplate.render`.

    No beginning-of-sequence id is added: templates write their own.
    """
    pieces = template.pieces(messages, tools, add_generation_prompt, **variables)
    return encode_pieces(tokenizer, pieces)


def message_dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the form templates expect, OpenAI's: content is text, or None beside tool calls only.

    A call's arguments are text that `tojson` prints as the JSON it is, because DeepSeek's templates paste
    them and Qwen's and Llama's serialise them. A tool message with several results becomes several.
    """
    dicts: list[dict[str, Any]] = []
    call_names: dict[str, str] = {}
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        thinking = "".join(part.text for part in message.parts if isinstance(part, ThinkingPart))
        call_names |= {call.id: call.name for call in calls}
        for result in results:
            entry = {"role": "tool", "content": result.text, "tool_call_id": result.call_id}
            if result.call_id in call_names:
                entry["name"] = call_names[result.call_id]
            dicts.append(entry)
        if results and not calls and not thinking and not message.text:
            continue
        plain: dict[str, Any] = {"role": message.role, "content": message.text}
        if thinking:
            plain["reasoning_content"] = thinking
        if calls:
            plain["content"] = message.text or None
            plain["tool_calls"] = [_call_dict(call) for call in calls]
        dicts.append(plain)
    return dicts


def _call_dict(call: ToolCallPart) -> dict[str, Any]:
    function = {"name": call.name, "arguments": JsonText(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _tool_dict(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[tuple[str, bool]]) -> list[int]:
    """Token ids of (text, False) and (control token, True) in order; in text, control tokens are mere characters."""
    ids: list[int] = []
    for index, (text, is_control) in enumerate(pieces):
        if is_control:
            ids.append(tokenizer.control_tokens[text].id)
            continue
        if index > 0 and tokenizer.control_tokens[pieces[index - 1][0]].rstrip:
            text = text.lstrip()
        if index + 1 < len(pieces) and tokenizer.control_tokens[pieces[index + 1][0]].lstrip:
            text = text.rstrip()
        ids += tokenizer.encode_piece(text, at_start=index == 0)
    return ids


def _check_assembled_tokens(tokenizer: Tokenizer, template: ChatTemplate) -> None:
    """Refuse a template that builds control tokens out of parts (`'<|' + role + '|>'`): they would come out as text."""
    probe = [Message("user", (TextPart("a"),))]
    try:
        pieces = template.pieces(probe)
    except (AdmissionError, TokenizerError):
        return  # it wants another conversation, and will say so
    text = "".join(piece for piece, _ in pieces)
    written = [tokenizer.control_tokens[piece].id for piece, is_control in pieces if is_control]
    control_ids = {token.id for token in tokenizer.control_tokens.values()}
    parsed = [i for i in tokenizer.encode(text, add_bos=False, parse_control=True) if i in control_ids]
    if written != parsed:
        assembled = [tokenizer.decode([i], skip_special=False) for i in parsed if i not in written]
        raise TokenizerError(
            "the chat template assembles control tokens from parts, which cannot be told from a user's text",
            where=tokenizer.source,
            found=json.dumps(assembled[:4], ensure_ascii=False),
            expected="each control token as one literal",
            fix="write the tokens out in a chat_template.jinja of your own",
        )


def _require_json(value: object, where: str, depth: int) -> None:
    """Raise AdmissionError unless the value is plain JSON data of valid Unicode."""
    if depth > _MAX_VARIABLE_DEPTH:
        raise AdmissionError("nested too deeply", where=where, expected=f"at most {_MAX_VARIABLE_DEPTH} levels")
    if isinstance(value, str):
        require_unicode(value)
    elif isinstance(value, list | tuple):
        for entry in value:
            _require_json(entry, where, depth + 1)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise AdmissionError("a key is not text", where=where, found=repr(key))
            require_unicode(key)
            _require_json(entry, key if depth == 0 else where, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float):
        raise AdmissionError("not JSON data", where=where, found=type(value).__name__)
