"""POST /v1/completions in OpenAI's older form: texts or token ids continued, no chat template.

Several prompts are several requests of the engine, run side by side; choice c of prompt i has index i * n + c. With `echo`
and `logprobs` the prompt is scored too, which is how evaluation harnesses read likelihoods (`max_tokens: 0`). A text's
first token may be the model's beginning-of-sequence token, which stands in no text.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from deepseek.api.admission import adapter_of, completion_limit, new_id, refuse_while_draining
from deepseek.api.answer import Answer, ServerSentEvents
from deepseek.api.body import read_model
from deepseek.api.dialects.chat_dialect import FINISH_REASONS, LimitedBy, PromptToken, limited_by, refuse_cancelled
from deepseek.api.dialects.chat_request import StreamOptions
from deepseek.api.dialects.fields import MAX_CHOICES, Model, Only, Opaque, StopString, StopStrings, TopLogprobs
from deepseek.api.dialects.generate import UsageModel, usage_dict
from deepseek.api.dialects.legacy_logprobs import LegacyLogprobModel, LegacyLogprobs, joined_lists
from deepseek.api.dialects.logprobs import vllm_entries
from deepseek.api.dialects.prompts import Prompt, Prompts, read_prompts
from deepseek.api.dialects.sampling import SamplingFields
from deepseek.api.dialects.structured import constraint_of
from deepseek.api.guard import caller_of
from deepseek.api.middleware import arrival_of
from deepseek.api.plugin_stage import Asked, PluginStage, read_several
from deepseek.api.scopes import Scope, needs
from deepseek.api.several import several
from deepseek.api.spoken import Spoken, text_of
from deepseek.api.state import ServerState, TextCodec
from deepseek.api.wire import DONE_FRAME, dump_json, sse_frame
from deepseek.core.deltas import Delta
from deepseek.core.engine import Finish, FinishReason, PromptScores, TokenLogprob, Tokens
from deepseek.engine.reading import join_scores

ROUTE = "/v1/completions"
DEFAULT_MAX_TOKENS = 16
"""OpenAI's, on this route."""
MAX_ANSWERS = 1024


class CompletionRequest(SamplingFields):
    """What /v1/completions takes. Optional fields may be null, which is their default."""

    model: Model
    prompt: Annotated[Prompts, Field(description="A text, several, the token ids of one prompt, or of several.")]
    max_tokens: (
        Annotated[
            int,
            Field(ge=0, description="Tokens to generate at most; 0 only beside echo. Default: 16, or what is left."),
        ]
        | None
    ) = None
    echo: Annotated[bool, Field(description="Let the text begin with the prompt, and score it where logprobs is.")] = (
        False
    )
    logprobs: Annotated[TopLogprobs, Field(description="Score every token, with so many alternatives.")] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES, description="Supported where it equals n.")] | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: Annotated[object, Only("")] = None
    user: Opaque | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_echo(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("echo", False) is None:
            return {**data, "echo": False}
        return data

    @model_validator(mode="after")
    def _fields_agree(self) -> CompletionRequest:
        n = self.n or 1
        if self.best_of is not None and self.best_of != n:
            raise PydanticCustomError("disagree", "best_of equal to n, or left out")
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("disagree", "stream: true beside stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise PydanticCustomError("disagree", "prompt_logprobs without stream, or /v1/generate, which streams them")
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise PydanticCustomError("disagree", "max_tokens of at least 1, or 0 beside echo")
        prompts = 1 if isinstance(self.prompt, str) or isinstance(self.prompt[0], int) else len(self.prompt)
        if prompts * n > MAX_ANSWERS:
            raise PydanticCustomError("disagree", "prompts times n of at most {most}", {"most": MAX_ANSWERS})
        return self

    @property
    def scored(self) -> int | None:
        """Alternatives beside each token of the prompt; None: the prompt is not scored."""
        wanted = [top for top in (self.prompt_logprobs, self.logprobs if self.echo else None) if top is not None]
        if not wanted and self.max_tokens == 0:
            return 0  # the engine has to do something for it
        return max(wanted, default=None)


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: LegacyLogprobModel | None
    finish_reason: Literal["stop", "length"]
    limited_by: LimitedBy = None
    prompt_logprobs: list[dict[str, PromptToken] | None] | None = None


class CompletionResponse(BaseModel):
    """What /v1/completions answers."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageModel


BODY = TypeAdapter(CompletionRequest)


class CompletionDialect(ServerSentEvents):
    """The bytes of the completions of one or several prompts. ids: of the engine's requests, one for each prompt."""

    envelope = "openai"

    def __init__(
        self, answer_id: str, body: CompletionRequest, text: TextCodec, prompts: Sequence[Prompt], ids: Sequence[str]
    ) -> None:
        self._text = text
        self._n = body.n or 1
        self._echo = body.echo
        self._top = body.logprobs
        self._vllm = body.prompt_logprobs
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {"id": answer_id, "object": "text_completion", "created": int(time.time()), "model": body.model}
        self._prompts = prompts
        self._ids = {request_id: at for at, request_id in enumerate(ids)}
        self._scores: dict[int, list[PromptScores]] = {}
        self._logprobs: dict[int, LegacyLogprobs] = {}
        self._unopened = set(range(len(prompts))) if self._echo else set()

    def opening(self) -> bytes:
        # An echo with scores waits for them, so that text and scores are in one frame.
        return b"" if self._top is not None else self._opened(sorted(self._unopened))

    def scores(self, scores: PromptScores) -> bytes:
        self._scores.setdefault(self._ids[scores.request_id], []).append(scores)
        return b""

    def delta(self, tokens: Tokens, deltas: Sequence[Delta]) -> bytes:
        opened, text = self._opened([tokens.choice // self._n]), text_of(deltas)
        if self._top is not None and tokens.logprobs:
            return opened + self._frame(tokens.choice, text, self._lists(tokens.choice, tokens.logprobs))
        return opened + (self._frame(tokens.choice, text) if text else b"")

    def closing(self, finish: Finish, deltas: Mapping[int, Sequence[Delta]]) -> bytes:
        frames = self._opened(sorted(self._unopened)) + b"".join(
            self._frame(index, text_of(deltas.get(index, ())), **_ending(reason, finish.budget))
            for index, reason in enumerate(finish.reasons)
        )
        if self._usage:
            frames += sse_frame(dump_json({**self._head, "choices": [], "usage": usage_dict(finish.usage)}))
        return frames + DONE_FRAME

    def whole(self, choices: Sequence[Spoken], scores: Sequence[PromptScores], finish: Finish) -> bytes:
        for piece in scores:
            self.scores(piece)
        written = []
        for spoken in choices:
            text, lists = self._echoed(spoken.index)
            if self._top is not None:
                new = self._lists(spoken.index, spoken.logprobs())
                lists = new if lists is None else joined_lists(lists, new)
            choice = self._choice(spoken.index, text + spoken.text, lists, **_ending(spoken.reason, finish.budget))
            if self._vllm is not None:
                choice["prompt_logprobs"] = vllm_entries(self._scored(spoken.index // self._n), self._text)
            written.append(choice)
        return dump_json({**self._head, "choices": written, "usage": usage_dict(finish.usage)})

    def _opened(self, prompts: Sequence[int]) -> bytes:
        """The frames that begin the texts of these prompts, if they have not begun."""
        frames = b""
        for prompt in prompts:
            if prompt in self._unopened:
                self._unopened.discard(prompt)
                for index in range(prompt * self._n, (prompt + 1) * self._n):
                    frames += self._frame(index, *self._echoed(index))
        return frames

    def _echoed(self, index: int) -> tuple[str, dict[str, list[Any]] | None]:
        """The text that a choice begins with, and its scores."""
        if not self._echo:
            return "", None
        at = index // self._n
        prompt = self._prompts[at]
        text = _text_of(prompt, self._text)
        if self._top is None:
            return text, None
        unwritten = 0 if prompt.text is None else _unwritten(prompt.ids, prompt.text, self._text)
        scores = self._scored(at)
        if self._vllm is not None:
            scores = [entry and replace(entry, top=entry.top[: self._top]) for entry in scores]
        return text, self._writer(index).of_prompt(prompt.ids, scores, unwritten)

    def _scored(self, prompt: int) -> Sequence[TokenLogprob | None]:
        return join_scores(self._scores.get(prompt, [])).logprobs

    def _lists(self, index: int, entries: Any) -> dict[str, list[Any]]:
        return self._writer(index).of(entries)

    def _writer(self, index: int) -> LegacyLogprobs:
        if index not in self._logprobs:
            self._logprobs[index] = LegacyLogprobs(self._text)
        return self._logprobs[index]

    def _frame(self, index: int, text: str, lists: dict[str, list[Any]] | None = None, **ending: Any) -> bytes:
        chunk: dict[str, Any] = {**self._head, "choices": [self._choice(index, text, lists, **ending)]}
        if self._usage:
            chunk["usage"] = None
        return sse_frame(dump_json(chunk))

    @staticmethod
    def _choice(index: int, text: str, lists: dict[str, list[Any]] | None, **ending: Any) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": lists, "finish_reason": None, **ending}


@needs(Scope.INFER)
async def completions(request: Request) -> Response:
    """Continue one or several prompts, in OpenAI's older form."""
    state: ServerState = request.app.state.server
    caller, arrived = caller_of(request.scope), arrival_of(request.scope)
    refuse_while_draining(state)
    body = await read_model(request, BODY, state.settings)
    adapter = adapter_of(state, caller, body.model)
    constraint, constraint_field = await constraint_of(body.response_format, body.structured_outputs)
    prompts = await read_prompts(state, body.prompt, "prompt")
    scored = body.model_copy(update={"prompt_logprobs": body.scored})
    answer_id = new_id("cmpl")
    ids = [answer_id] if len(prompts) == 1 else [f"{answer_id}-{at}" for at in range(len(prompts))]
    plugins = None
    if state.plugins.reads_prompts(caller.tenant):
        asked = [Asked(caller, request_id, ROUTE, body.model, request.receive) for request_id in ids]
        prompts, plugins = await _with_plugins(state, asked, prompts, body.n or 1)
    requests = [
        scored.to_request(
            request_id,
            prompt.ids,
            max_tokens=_limit(state, len(prompt.ids), body.max_tokens),
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
            logprobs=body.logprobs,
            constraint=constraint,
            adapter=adapter,
            arrived=arrived,
        )
        for request_id, prompt in zip(ids, prompts, strict=True)
    ]
    return Answer(
        state,
        requests[0] if len(requests) == 1 else replace(requests[0], id=answer_id),
        CompletionDialect(answer_id, body, state.text, prompts, ids),
        caller=caller,
        model=body.model,
        route=ROUTE,
        stream=bool(body.stream),
        arrived=arrived,
        fields={"constraint": constraint_field, "adapter": "model"},
        events=(
            several(state, caller, requests, group=answer_id, model=body.model, route=ROUTE)
            if len(requests) > 1
            else None
        ),
        plugins=plugins,
    )


async def _with_plugins(
    state: ServerState, asked: Sequence[Asked], prompts: Sequence[Prompt], choices: int
) -> tuple[list[Prompt], PluginStage | None]:
    """The prompts that plugins made of these; token ids are shown to them as the text they stand for."""
    texts = [_text_of(prompt, state.text) for prompt in prompts]
    found, plugins = await read_several(state, asked, texts, choices)
    changed = [at for at, text in enumerate(found) if text != texts[at]]
    made = list(prompts)
    for at in changed:
        field = "prompt" if len(prompts) == 1 else f"prompt.{at}"
        made[at : at + 1] = await read_prompts(state, found[at], field)
    return made, plugins


def _text_of(prompt: Prompt, codec: TextCodec) -> str:
    if prompt.text is not None:
        return prompt.text
    return b"".join(map(codec.token_bytes, prompt.ids)).decode("utf-8", "replace")


def _ending(reason: FinishReason, budget: str | None) -> dict[str, Any]:
    """Raises Problem for an answer that was cut off, which OpenAI has no word for."""
    refuse_cancelled(reason)
    return {"finish_reason": FINISH_REASONS[reason]} | limited_by(reason, budget)


def _limit(state: ServerState, prompt_tokens: int, max_tokens: int | None) -> int:
    if max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, state.max_model_len - prompt_tokens)
    return completion_limit(state, prompt_tokens, max_tokens, "max_tokens")


def _unwritten(ids: Sequence[int], text: str, codec: TextCodec) -> int:
    """How many of the first ids stand in no text: 1 where the tokenizer put a beginning-of-sequence token before it."""
    whole = b"".join(map(codec.token_bytes, ids))
    # Some tokenizers begin a text with a space of their own.
    rest = whole[len(codec.token_bytes(ids[0])) :].decode("utf-8", "replace")
    return int(
        whole.decode("utf-8", "replace").lstrip(" ") != text.lstrip(" ") and rest.lstrip(" ") == text.lstrip(" ")
    )
