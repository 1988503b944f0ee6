"""What the front holds for as long as it runs: the engine, the text codec, the names it serves, its limits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deepseek.api.lifecycle import Lifecycle
from deepseek.api.metrics import Metrics
from deepseek.core.engine import Engine
from deepseek.core.errors import ConfigError
from deepseek.core.messages import Message, ToolSpec


class TextCodec(Protocol):
    """Text to token ids and back, for one model. Content never becomes special tokens; only a template's literals do.

    Methods may be called from a worker thread (long prompts are encoded off the event loop).
    """

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw completion prompt, with the model's beginning-of-sequence token where it has one."""
        ...

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[int]:
        """Ids of a conversation up to where the assistant speaks next. Raises TokenizerError without a template."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for; half a character is allowed."""
        ...


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Limits of the front. Times in seconds, sizes in bytes.

    default_max_tokens: tokens to generate when a request names no number, or what the context leaves, if less.
    body_timeout_s: for the whole body to arrive. send_timeout_s: for a reader to take one frame.
    long_text_chars: prompts longer than this are encoded in a worker thread.
    max_text_chars: prompts longer than this cannot fit the context and are refused unread; None encodes whatever comes.
    """

    max_body_bytes: int = 4 * 1024 * 1024
    body_timeout_s: float = 30.0
    send_timeout_s: float = 30.0
    default_max_tokens: int = 256
    long_text_chars: int = 8192
    max_text_chars: int | None = None


@dataclass(slots=True)
class ServerState:
    """One model behind one front. Raises ConfigError for a name given twice.

    models: the names clients may use, the first being the one shown; never empty.
    max_model_len: tokens of prompt and completion together.
    adapters: names of adapters that the engine has loaded; clients ask for one as they ask for a model.
    created: when this server started to serve, in seconds since 1970.
    """

    engine: Engine
    text: TextCodec
    models: tuple[str, ...]
    max_model_len: int
    settings: ApiSettings = field(default_factory=ApiSettings)
    adapters: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))
    metrics: Metrics = field(init=False)
    lifecycle: Lifecycle = field(init=False)

    def __post_init__(self) -> None:
        taken = next((name for name in self.adapters if name in self.models), None)
        if taken is not None:
            raise ConfigError("an adapter and the model have the same name", where="adapter", found=taken)
        self.metrics = Metrics(self.engine)
        self.lifecycle = Lifecycle(self.engine, probe_ids=lambda: tuple(self.text.encode_prompt("1")))
