"""What a tool may raise, and what is raised about it. They differ in what is to be done next.

    ToolRetry        the model may try again, differently: its arguments did not fit
    ToolTransient    the same call may work later: it is retried, if the tool allows, before anybody hears of it
    ToolFailed       it cannot be done: the model has to go another way
    ToolRefused      somebody does not allow it: a person, a plugin, a policy
    ApprovalNeeded   a person has to be asked first: the call is suspended, not failed
    ToolBusy         there was no room for it; it was not run
    ToolTimeout      it took too long and was stopped, or could not be

Any other exception of a tool counts as ToolFailed, SystemExit included.
"""

from __future__ import annotations

from deepseek.core.errors import ToolError


class ToolRetry(ToolError):
    """The call cannot work as it is, but another one may. What it says is written for the model."""


class ArgumentsError(ToolRetry):
    """The arguments are not JSON, or not what the tool takes."""


class ToolTransient(ToolError):
    """The same call may work later. retry_after_s: not sooner than that, in seconds, if the other side said so."""

    def __init__(self, what: str, *, retry_after_s: float | None = None, **parts: str) -> None:
        super().__init__(what, **parts)
        self.retry_after_s = retry_after_s


class ToolFailed(ToolError):
    """It cannot be done, now or with other arguments."""


class ToolRefused(ToolError):
    """It is not allowed. The call was not run."""


class ToolTimeout(ToolError):
    """The call took longer than it may. stopped: whether it was, or still runs somewhere, given up."""

    def __init__(self, what: str, *, stopped: bool, **parts: str) -> None:
        super().__init__(what, **parts)
        self.stopped = stopped


class ToolBusy(ToolError):
    """As many calls run, hang or wait already as may."""


class ApprovalNeeded(ToolError):
    """A tool asks for a person's consent before it goes on. `what` is the reason the person is shown."""
