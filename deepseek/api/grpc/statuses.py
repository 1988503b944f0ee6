"""A Problem as a gRPC status, with details as google.rpc has them.

ErrorInfo's reason is the problem's kind (QUEUE_FULL), RequestInfo has the request's id, BadRequest the fields that are
wrong, RetryInfo when to try again. They travel in `grpc-status-details-bin`.
"""

from __future__ import annotations

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from deepseek.api.problems import Problem

Metadata = tuple[tuple[str, str | bytes], ...]
DETAILS = "grpc-status-details-bin"
MAX_MESSAGE_CHARS = 1024  # it is a header, percent-encoded

_BY_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    402: grpc.StatusCode.RESOURCE_EXHAUSTED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    406: grpc.StatusCode.INVALID_ARGUMENT,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def code_of(problem: Problem) -> grpc.StatusCode:
    return _BY_STATUS.get(problem.status, grpc.StatusCode.UNKNOWN)


def trailing_of(problem: Problem, request_id: str) -> Metadata:
    """The metadata that goes with the status: its details, and the headers that HTTP would have."""
    code, _ = code_of(problem).value
    status = status_pb2.Status(code=code, message=problem.detail[:MAX_MESSAGE_CHARS])
    reason = problem.kind.replace("-", "_").upper()
    status.details.add().Pack(details.ErrorInfo(reason=reason, domain="deepseek", metadata={"title": problem.title}))
    status.details.add().Pack(details.RequestInfo(request_id=request_id))
    if problem.errors:
        fields = details.BadRequest()
        for error in problem.errors:
            words = [f"expected {error.expected}"] if error.expected else []
            words += [f"found {error.found}"] if error.found else []
            fields.field_violations.add(field=error.field, description="; ".join(words))
        status.details.add().Pack(fields)
    headers = {name.lower(): value for name, value in problem.headers.items()}
    wait = headers.get("retry-after", "")
    if wait.isdigit():
        status.details.add().Pack(details.RetryInfo(retry_delay=Duration(seconds=int(wait))))
    return ((DETAILS, status.SerializeToString()), *headers.items())
