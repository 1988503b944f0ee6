"""What goes wrong with a run and is nobody's but ours or the caller's. A model's own faults are told to the model instead."""

from __future__ import annotations

from deepseek.core.errors import DeepSeekError


class AgentError(DeepSeekError):
    """A run cannot be had, or not gone on with, as it was asked for."""
