"""What the tests of /v1/stream share: a connection by the `websockets` client, and messages said and heard on it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


@contextmanager
def opened(url: str, **options: Any) -> Iterator[ClientConnection]:
    address = url.replace("http://", "ws://") + "/v1/stream"
    with connect(address, open_timeout=10, close_timeout=2, proxy=None, **options) as socket:
        yield socket


def say(connection: ClientConnection, **message: Any) -> None:
    connection.send(json.dumps(message))


def hear(connection: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv(timeout=10))
    return message


def until_final(connection: ClientConnection) -> list[dict[str, Any]]:
    messages = [hear(connection)]
    while messages[-1]["type"] not in ("final", "error"):
        messages.append(hear(connection))
    return messages


def close_code(connection: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as caught:
        hear(connection)
    return None if caught.value.rcvd is None else caught.value.rcvd.code
