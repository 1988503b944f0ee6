"""The errors users meet. Each says what is wrong, where, what was found, what was expected and how to mend it.

The command line prints one as a single line and exits with code 2; the API turns one into a problem
document (RFC 9457). Anything that is not a `DeepSeekError` is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import Literal


class DeepSeekError(Exception):
    """Base of all errors a user can cause or cure.

    `what` is a short sentence; the keyword parts are appended in a fixed order when given.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.fix = fix
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.fix:
            text += f". Fix: {self.fix}"
        return text


class ConfigError(DeepSeekError):
    """A configuration file, field or command-line value cannot be used as it is."""


class CheckpointError(DeepSeekError):
    """A checkpoint's files or tensors are missing, extra, misshapen or damaged."""


class TokenizerError(DeepSeekError):
    """A tokenizer file or chat template is unusable, or does not fit the model."""


class LayoutError(DeepSeekError):
    """A tensor's shape, type or memory layout, or a distribution over ranks, is not what an operation needs."""


class EngineError(DeepSeekError):
    """The engine cannot serve: it is closed, or its worker failed."""


class StoreError(DeepSeekError):
    """The control database cannot be used now: unreachable, full, locked by another, or asked for too much at once."""


class ModelError(DeepSeekError):
    """A model did not answer. retryable: whether asking again may help; retry_after_s: not sooner than that, if it said."""

    def __init__(
        self,
        what: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, where=where, found=found, expected=expected, fix=fix)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ToolError(DeepSeekError):
    """A tool, a plugin or an environment could not do what it was asked."""


class TenancyError(DeepSeekError):
    """There is no tenant where one is needed, or not the one that may."""


INTERRUPTS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What stops a program, a thread or a generator and must pass. Whoever contains faults of others catches everything else,
BaseException included: a panic in a Rust library (tokenizers, llguidance) reaches Python as no Exception."""

AdmissionReason = Literal["invalid", "unknown_model", "too_long", "queue_full", "duplicate"]


class AdmissionError(DeepSeekError):
    """A request was refused before any work was done. `reason` is what a front maps to its own status codes."""

    def __init__(
        self,
        what: str,
        *,
        reason: AdmissionReason = "invalid",
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, where=where, found=found, expected=expected, fix=fix)
        self.reason: AdmissionReason = reason
