"""Idempotency-Key over gRPC: a call that is sent again runs, and is charged, once, whatever its deadline is by then."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from api_support import MODELS, RecordingEngine
from grpc_support import KEYS, Client, TestKeys, client_of, grpc_server
from metering_support import Books, opened

PROMPT = {"model": MODELS[0], "prompt": "Say hello", "seed": 1}


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    with opened(tmp_path / "control.db") as found:
        yield found


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
def client(books: Books, engine: RecordingEngine) -> Iterator[Client]:
    state = books.state(engine, books.meter())
    state.identifier = TestKeys()
    with grpc_server(state) as server, client_of(server, KEYS["enterprise"]) as client:
        yield client


def trailing(client: Client, fields: dict[str, Any], timeout: float | None) -> dict[str, str]:
    metadata = (("authorization", f"Bearer {KEYS['enterprise']}"), ("idempotency-key", "k-1"))
    message = client.message("Generate", fields)
    _, call = client.callable("Generate").with_call(message, timeout=timeout, metadata=metadata)
    return dict(call.trailing_metadata())


@pytest.mark.parametrize("timeouts", [(None, None), (60.0, 59.0), (60.0, None), (None, 60.0)], ids=str)
@pytest.mark.parametrize("fields", [PROMPT, {**PROMPT, "timeout_s": 30.0}, {**PROMPT, "timeout_s": 3000.0}], ids=str)
def test_the_same_call_again_gets_the_same_answer_and_is_charged_once(
    client: Client,
    books: Books,
    engine: RecordingEngine,
    timeouts: tuple[float | None, float | None],
    fields: dict[str, Any],
) -> None:
    first, second = (trailing(client, fields, timeout) for timeout in timeouts)
    assert "idempotency-replayed" not in first
    assert (second["idempotency-replayed"], second["x-seed"]) == ("true", first["x-seed"])
    assert (len(engine.requests), len(books.ledger)) == (1, 1)
    deadline = engine.requests[0].deadline
    assert (deadline is None) == (timeouts[0] is None and "timeout_s" not in fields)


def test_the_same_stream_again_is_the_same_stream(client: Client, engine: RecordingEngine) -> None:
    first, second = (list(client.call("GenerateStream", PROMPT, idempotency_key="k-1")) for _ in range(2))
    assert second == first
    assert len(engine.requests) == 1


@pytest.mark.parametrize("changed", [{"prompt": "b"}, {"timeout_s": 30.0}])
def test_another_call_with_the_same_key_is_refused(client: Client, changed: dict[str, Any]) -> None:
    trailing(client, PROMPT, 60.0)
    with pytest.raises(grpc.RpcError) as failed:
        trailing(client, PROMPT | changed, 60.0)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
