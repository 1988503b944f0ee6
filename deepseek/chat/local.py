"""A `LanguageModel` on an engine of ours: conversations to token ids, tokens to deltas, and a grammar where one is due.

    model = LocalModel.load("builtin")
    async for piece in model.chat([Message("user", (TextPart("Hello"),))]): ...
    await model.close()

The grammar binds only inside a call: whether there is one is the model's choice, made by sampling the token that opens
it; from there on, name and arguments follow the tools' schemas. A schema that no grammar can hold leaves its tool's
arguments any JSON object, which whoever runs the tool checks anyway.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepseek.chat.codec import TextCodec
from deepseek.chat.turns import TurnBuilder
from deepseek.core.constraint import Constraint
from deepseek.core.deltas import Delta
from deepseek.core.engine import LOCAL_TENANT, Engine, Event, Finish, Ready, Request, TokenLogprob, Tokens
from deepseek.core.errors import AdmissionError, EngineError, ModelError, TenancyError
from deepseek.core.language import Turn, TurnEnd
from deepseek.core.messages import MediaKind, MediaPart, Message, ToolChoice, ToolSpec
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.engine import Engine as OwnEngine
from deepseek.engine.grammar.schema import rewrite
from deepseek.models.locate import display_name
from deepseek.tenancy.context import current_tenant

Generate = Callable[[Request], AsyncIterator[Event]]
"""An engine's `generate`, or whatever stands in front of it: what meters requests, for one."""

_KEPT_SCHEMAS = 1024


class LocalModel:
    """generate: where tokens come from. context_tokens: of prompt and answer together. tenant: in whose name, unless
    `generate` sets it; None: the one at hand, else "local"; cache_salt, priority: as in `Request`."""

    def __init__(
        self,
        generate: Generate,
        codec: TextCodec,
        *,
        name: str,
        context_tokens: int,
        tenant: str | None = None,
        cache_salt: str = "",
        priority: int = 0,
        engine: Engine | None = None,
    ) -> None:
        self.codec, self.context_tokens = codec, context_tokens
        self._generate, self._name = generate, name
        self._tenant, self._cache_salt, self._priority = tenant, cache_salt, priority
        self._engine = engine
        # Whether a grammar can hold a tool's schema, by its text: trying takes milliseconds.
        self._holds: dict[str, bool] = {}

    @classmethod
    def load(cls, model: str | Path = "builtin", options: EngineOptions | None = None, **others: Any) -> LocalModel:
        """A model with an engine of its own, which `close` ends. others: tenant, cache_salt, priority, name.

        Takes a while, and reads files: not for an event loop. Raises ConfigError, CheckpointError, TokenizerError.
        """
        loaded = build_loop(model, options)
        engine = OwnEngine(loaded.loop, loaded.weights, loaded.grammars)
        others.setdefault("name", display_name(str(model)))
        codec = TextCodec(loaded.tokenizer)
        return cls(engine.generate, codec, context_tokens=loaded.max_model_len, engine=engine, **others)

    @property
    def name(self) -> str:
        return self._name

    @property
    def takes(self) -> frozenset[MediaKind]:
        """Text alone."""
        return frozenset()

    async def close(self) -> None:
        """End the engine, if it is this model's own. Idempotent."""
        if self._engine is not None:
            await self._engine.close()

    async def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        choice: ToolChoice = "auto",
        parallel: bool = True,
        schema: Mapping[str, object] | None = None,
        thinking: bool = False,
        sampling: SamplingParams | None = None,
        deadline: float | None = None,
    ) -> AsyncIterator[Delta | Turn]:
        """See the protocol. sampling: None is greedy, as long as there is room; max_tokens is cut to the room there is.

        A model that cannot think answers at once. Raises AdmissionError with reason "too_long" for a conversation that
        leaves no room, ModelError with `retryable` where the engine is too busy now.
        """
        thinking = thinking and self.codec.thinks
        shown = () if choice == "none" else tuple(tools)
        params, ids = self._asked(messages, shown, thinking, sampling)
        held = await asyncio.to_thread(self._held, shown) if self._unknown(shown) else self._held(shown)
        while True:
            constraint = self._constraint(held, choice, parallel, schema, thinking)
            request = Request(
                f"chat-{secrets.token_hex(12)}",
                ids,
                params,
                tenant=self._tenant or _tenant_at_hand(),
                cache_salt=self._cache_salt,
                priority=self._priority,
                deadline=deadline,
                constraint=constraint,
            )
            begun = False
            try:
                async with aclosing(self._answer(request, bool(shown), thinking)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except AdmissionError as error:
                loose = tuple(_loose(tool) for tool in held)
                if begun or constraint is None or loose == held or not _of_form(error):
                    raise
                held = loose  # together they are more than a grammar may be

    def _asked(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], thinking: bool, sampling: SamplingParams | None
    ) -> tuple[SamplingParams, tuple[int, ...]]:
        media = next((part for message in messages for part in message.parts if isinstance(part, MediaPart)), None)
        if media is not None:
            raise AdmissionError("this model takes text alone", where="messages", found=f"a part of kind {media.kind}")
        ids = tuple(self.codec.encode_chat(messages, tools, thinking=thinking))
        room = self.context_tokens - len(ids)
        if room < 1:
            raise AdmissionError(
                "the conversation leaves no room for an answer",
                reason="too_long",
                where="messages",
                found=f"{len(ids)} tokens",
                expected=f"fewer than {self.context_tokens}",
            )
        params = sampling or SamplingParams(temperature=0.0, max_tokens=room)
        if params.n != 1:
            raise AdmissionError("a turn is one answer", where="n", found=params.n, expected="1")
        most = min(params.max_tokens, room)
        return replace(params, max_tokens=most, min_tokens=min(params.min_tokens, most), skip_special_tokens=False), ids

    def _constraint(
        self,
        tools: tuple[ToolSpec, ...],
        choice: ToolChoice,
        parallel: bool,
        schema: Mapping[str, object] | None,
        thinking: bool,
    ) -> Constraint | None:
        if schema is not None:
            form = Constraint.json_schema(dict(schema))
            return self.codec.answer_constraint(form, tools, choice, parallel, thinking=thinking)
        return self.codec.tool_constraint(tools, choice, parallel, thinking=thinking, bind=True)

    async def _answer(self, request: Request, tools: bool, thinking: bool) -> AsyncGenerator[Delta | Turn]:
        parser, built = self.codec.parser(tools, thinking), TurnBuilder()
        seed: int | None = None
        version = 0
        token_ids: list[int] = []
        logprobs: list[TokenLogprob] = []
        events: AsyncIterator[Event] | None = None
        try:
            events = self._generate(request)
            async for event in events:
                if isinstance(event, Tokens):
                    token_ids += event.token_ids
                    logprobs += event.logprobs or ()
                    version = event.weights_version
                    deltas = parser.feed(event.text, event.controls)
                    built.add(deltas)
                    for delta in deltas:
                        yield delta
                elif isinstance(event, Ready):
                    seed = event.seed
                elif isinstance(event, Finish):
                    deltas = parser.close()
                    built.add(deltas)
                    for delta in deltas:
                        yield delta
                    yield Turn(
                        built.message(),
                        _end(event, built),
                        event.usage,
                        built.cut,
                        seed,
                        request.prompt_ids,
                        tuple(token_ids),
                        tuple(logprobs) if request.sampling.logprobs is not None else None,
                        version,
                    )
                    return
            raise ModelError("the answer has no end", where=self.name)
        except AdmissionError as error:
            if error.reason != "queue_full":
                raise
            raise ModelError(error.what, retryable=True, where=self.name, found=error.found) from error
        except EngineError as error:
            raise ModelError(error.what, where=self.name, found=error.found, fix=error.fix) from error
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    def _unknown(self, tools: Sequence[ToolSpec]) -> bool:
        return any(_key(tool) not in self._holds for tool in tools)

    def _held(self, tools: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
        """The tools, those whose schemas no grammar can hold with any object for arguments."""
        return tuple(tool if self._can_hold(tool) else _loose(tool) for tool in tools)

    def _can_hold(self, tool: ToolSpec) -> bool:
        key = _key(tool)
        known = self._holds.get(key)
        if known is None:
            try:
                rewrite(key)
                self.codec.tool_constraint([tool], "required", False)
                known = True
            except AdmissionError:
                known = False
            if len(self._holds) >= _KEPT_SCHEMAS:
                self._holds.clear()
            self._holds[key] = known
        return known


def _tenant_at_hand() -> str:
    try:
        return current_tenant()
    except TenancyError:
        return LOCAL_TENANT


def _end(finish: Finish, built: TurnBuilder) -> TurnEnd:
    """Raises ModelError where the engine failed."""
    reason = finish.reasons[0]
    if reason == "error":
        raise ModelError("the engine failed", found=finish.error)
    return "calls" if built.calls else reason


def _key(tool: ToolSpec) -> str:
    return json.dumps(tool.parameters)


def _loose(tool: ToolSpec) -> ToolSpec:
    return replace(tool, parameters={"type": "object"})


def _of_form(error: AdmissionError) -> bool:
    """Whether it is the constraint that was refused."""
    return error.reason == "invalid" and (error.where or "").startswith(("constraint", "schema"))
