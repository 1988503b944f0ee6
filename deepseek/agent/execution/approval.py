"""Consent of a person to one call, as data: what is asked, and what was answered.

A call that needs consent gives a suspended result with an `ApprovalRequest`; its siblings finish. Both are plain data,
so a run can be put away as JSON and go on days later, in another process. The request's id is drawn for it alone, and
the answer is for exactly the tool and the arguments that the person saw: a call that came back with others is
asked about anew.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What a person is asked. arguments: canonical JSON, what the tool will be called with. written: the arguments as the
    model wrote them, by which the call is known again."""

    id: str
    call_id: str
    tool: str
    arguments: str
    reason: str
    written: str


@dataclass(frozen=True, slots=True)
class Approval:
    """What the person answered to the request of this id.

    arguments: JSON text to call the tool with instead, if the person changed it. reason: told to the model if it is a no.
    """

    id: str
    approved: bool
    reason: str = ""
    by: str = ""
    arguments: str | None = None


def new_approval_id() -> str:
    """`approval_` and 128 random bits: two requests never share one, whatever ids a model gives its calls."""
    return "approval_" + secrets.token_hex(16)
