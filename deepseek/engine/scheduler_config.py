"""How large the pool, a step and the queues are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deepseek.core.errors import ConfigError

SpeculationMode = Literal["off", "ngram", "mtp", "auto"]
MAX_DRAFT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Raises ConfigError naming the field.

    num_blocks, block_size: the pool. A sequence may grow to min(max_model_len, num_blocks x block_size) tokens.
    max_tokens_per_step: the budget; at least max_sequences, so that every running sequence can advance.
    max_sequences: choices running at once. max_waiting: requests not started yet, beyond which none is taken.
    eos_token_ids: end a sequence unless its request says ignore_eos.
    ageing_s: seconds of waiting worth one step of priority.
    numeric_mode: part of the prefix cache's keys, because different modes give different bits.
    speculation: see `deepseek.engine.speculation.policy`. max_draft_tokens: guesses of one sequence in one step, at most.
    """

    num_blocks: int
    max_model_len: int
    block_size: int = 16
    max_tokens_per_step: int = 512
    max_sequences: int = 64
    max_waiting: int = 1024
    eos_token_ids: frozenset[int] = frozenset()
    ageing_s: float = 30.0
    numeric_mode: str = "exact"
    prefix_cache: bool = True
    speculation: SpeculationMode = "off"
    max_draft_tokens: int = 3

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "max_tokens_per_step", "max_sequences", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigError("out of range", where=name, found=getattr(self, name), expected="at least 1")
        if self.max_model_len < 2:
            raise ConfigError("out of range", where="max_model_len", found=self.max_model_len, expected="at least 2")
        if self.num_blocks * self.block_size < 2:
            raise ConfigError("the pool holds less than two tokens", where="num_blocks", found=self.num_blocks)
        if self.ageing_s <= 0:
            raise ConfigError("out of range", where="ageing_s", found=self.ageing_s, expected="above 0")
        if self.speculation not in get_args(SpeculationMode):
            raise ConfigError(
                "unknown",
                where="speculation",
                found=repr(self.speculation),
                expected=" or ".join(get_args(SpeculationMode)),
            )
        if not 0 <= self.max_draft_tokens <= MAX_DRAFT_TOKENS:
            raise ConfigError(
                "out of range",
                where="max_draft_tokens",
                found=self.max_draft_tokens,
                expected=f"0 to {MAX_DRAFT_TOKENS}",
            )
        if self.max_tokens_per_step < self.max_sequences:
            raise ConfigError(
                "a step could not advance every running sequence",
                where="max_tokens_per_step",
                found=self.max_tokens_per_step,
                expected=f"at least max_sequences = {self.max_sequences}",
            )
