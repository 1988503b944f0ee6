"""A tool as data: its name, what it is for, what it takes, the function, and the bounds it runs within."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, cast

from deepseek.agent.execution import schema
from deepseek.agent.execution.context import ToolContext
from deepseek.agent.execution.names import wire_name
from deepseek.agent.execution.validate import CallForm, SchemaForm
from deepseek.core.errors import ToolError
from deepseek.core.messages import ToolSpec

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MEMORY_BYTES = 512 << 20
MAX_NAME_CHARS = 128

__all__ = ["NeedsApproval", "Tool", "ToolContext", "Toolset"]


NeedsApproval = bool | Callable[[Mapping[str, Any], ToolContext], bool | Awaitable[bool]]
"""Whether a person has to be asked: always, never, or depending on the arguments. One that fails means: ask."""


@dataclass(frozen=True)
class Tool:
    """One tool. `Tool.of` makes one of a function; the constructor takes a schema from elsewhere (MCP, a file).

    name: unique in a toolset. parameters: a JSON schema of an object. function: called with the arguments by name;
    asynchronous, or synchronous and then run in a thread.
    timeout_s: for one attempt. An asynchronous function is cancelled then. A thread cannot be stopped: it is given up.
    isolate: run in a process of its own, which is killed with its process group; the function must be importable, its
        arguments and result JSON. memory_bytes: how much that process may take beyond what its imports took.
    inline: a synchronous function so quick that it runs on the event loop; nothing can stop it.
    pure: the same arguments give the same result for a while, and nothing else happens: it may be cached, for
        cache_ttl_s if given. version: part of the cache's key; change it with the function.
    idempotent: twice is as good as once, so that a call whose fate is unknown (a time-out, a lost connection) may be
        repeated. retries: how many more attempts; only for errors that may pass.
    concurrency: how many calls run at a time; None: no bound of its own. max_result_bytes: of the text the model sees;
        None: the executor's.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    function: Callable[..., Any] = field(repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S
    pure: bool = False
    version: str = "1"
    needs_approval: NeedsApproval = False
    retries: int = 0
    concurrency: int | None = None
    idempotent: bool = False
    max_result_bytes: int | None = None
    isolate: bool = False
    inline: bool = False
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    cache_ttl_s: float | None = None
    form: CallForm | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = f"tool {self.name!r}"
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise ToolError("a tool's name must be a printable text", where="tool", found=repr(self.name))
        if len(self.name) > MAX_NAME_CHARS:
            raise ToolError("its name is too long", where=where, expected=f"at most {MAX_NAME_CHARS} characters")
        if not callable(self.function):
            raise ToolError("not a function", where=where, found=type(self.function).__name__)
        if not self.timeout_s > 0:
            raise ToolError("timeout_s must be positive", where=where, found=self.timeout_s)
        if self.retries < 0 or (self.concurrency is not None and self.concurrency < 1):
            raise ToolError("retries must be at least 0, and concurrency at least 1", where=where)
        if self.max_result_bytes is not None and self.max_result_bytes < 1:
            raise ToolError("max_result_bytes must be positive", where=where, found=self.max_result_bytes)
        if self.isolate and self.inline:
            raise ToolError("cannot run both in a process of its own and on the event loop", where=where)
        if self.inline and schema.is_async(self.function):
            raise ToolError("an asynchronous function is never inline", where=where, fix="leave inline out")
        if self.isolate:
            from deepseek.agent.execution.isolate import address_of

            address_of(self.function, where)
        if self.form is None:
            object.__setattr__(self, "form", SchemaForm(where, self.parameters, self.function, ToolContext))

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        closed: bool = True,
        **options: Any,
    ) -> Tool:
        """A tool of a function: its name, description and schema from the function itself where they are not given.

        closed: unknown arguments are an error, and the schema says so; else they are ignored, and it does not.
        options: the other fields. Raises ToolError for a function that cannot be called by name with JSON.
        """
        name = name or str(getattr(function, "__name__", type(function).__name__))
        if parameters is not None:
            about = description if description is not None else schema.described(function)[0]
            return cls(name, about, dict(parameters), function, **options)
        read = schema.read_function(function, where=f"tool {name!r}", context_type=ToolContext, closed=closed)
        return cls(
            name,
            description if description is not None else read.description,
            read.parameters,
            function,
            form=read.form,
            **options,
        )

    @property
    def call_form(self) -> CallForm:
        """How its arguments are checked and handed over."""
        return cast(CallForm, self.form)

    @cached_property
    def spec(self) -> ToolSpec:
        """What a model is told of it, under the name that every API takes."""
        return ToolSpec(wire_name(self.name), self.description, dict(self.parameters))

    @cached_property
    def is_async(self) -> bool:
        return schema.is_async(self.function)


class Toolset(Protocol):
    """Where tools come from: a registry, a connection to a server. The tools may change from one asking to the next."""

    async def tools(self) -> Sequence[Tool]: ...
