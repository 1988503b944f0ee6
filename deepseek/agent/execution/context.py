"""What a call knows of the run it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek.agent.execution.approval import Approval


@dataclass(frozen=True, slots=True)
class ToolContext:
    """On whose behalf, and within what, a call runs. A function gets it in a parameter annotated so.

    deadline: of `time.monotonic()`; whatever a tool waits for must not wait longer. services: what the run lends its
    tools (a database, a web client), by name. call_id, approval: of this call, filled in by the executor; approval is
    what a person said, where one was asked.
    """

    tenant: str | None = None
    run_id: str = ""
    deadline: float | None = None
    services: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    call_id: str = ""
    approval: Approval | None = None
