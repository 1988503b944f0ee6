"""What the tests of files and batches share: servers whose shelf lasts, requests as lines, and waiting for an end."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from api_support import state_of

from deepseek.api import serving
from deepseek.api.kept.shelf import Shelf
from deepseek.api.server import DrainingServer
from deepseek.api.state import ServerState
from deepseek.api.store.database import Database
from deepseek.api.store.writer import Writer

MODEL = "deepseek-7b"
CHAT = "/v1/chat/completions"


def line(custom_id: str, url: str = CHAT, **body: Any) -> dict[str, Any]:
    """One request of a batch."""
    if not body:
        body = {"messages": [{"role": "user", "content": custom_id}]}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": MODEL} | body}


def lines(requests: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def batch_of(client: openai.OpenAI, requests: Sequence[dict[str, Any]], endpoint: Any = CHAT, **more: Any) -> Any:
    file = client.files.create(file=("requests.jsonl", lines(requests)), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


ENDED = ("completed", "failed", "cancelled", "expired")


def ended(client: openai.OpenAI, batch_id: str, pause: threading.Event | None = None) -> Any:
    """The batch once it has ended. Raises AssertionError if that takes more than half a minute."""
    pause = pause or threading.Event()
    for _ in range(600):
        batch = client.batches.retrieve(batch_id)
        if batch.status in ENDED:
            return batch
        pause.wait(0.05)
    raise AssertionError(f"the batch has not ended: {batch.status}")


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a file of results by their custom_id."""
    assert file_id is not None
    found = [json.loads(raw) for raw in client.files.content(file_id).text.splitlines()]
    assert len({entry["custom_id"] for entry in found}) == len(found), "a line was answered twice"
    return {entry["custom_id"]: entry for entry in found}


@contextmanager
def lasting(directory: Path, engine: Any, **settings: Any) -> Iterator[tuple[DrainingServer, ServerState]]:
    """A server whose answers, files and batches outlive it."""
    database = Database.open(str(directory / "control.db"), serving=True)
    writer = Writer(database)
    try:
        state = state_of(engine, **settings)
        state.shelf = Shelf(database, writer, directory / "files")
        with serving(state, grace_s=0.2) as server:
            yield server, state
    finally:
        writer.close()
        database.close()


@contextmanager
def asking(url: str, key: str = "none") -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60) as client:
        yield client
