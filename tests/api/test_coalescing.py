"""A reader slower than the engine: what was said meanwhile comes in one frame, and nothing of it is lost."""

import asyncio
import json
from typing import Any

import pytest
from tools_support import TOOLS, call, calls, saying

from deepseek.api import create_app

MODEL = "deepseek-tiny"


def read_slowly(text: str, path: str, body: dict[str, Any]) -> list[bytes]:
    """The messages of a stream whose reader takes the first one only when the engine has said everything."""
    state = saying(text)

    async def scenario() -> list[bytes]:
        app = create_app(state)
        sent: list[bytes] = []
        waiting = [json.dumps({"model": MODEL, "stream": True} | body).encode()]

        async def receive() -> Any:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sent.append(message["body"])
                while state.engine.load().running:
                    await asyncio.sleep(0)

        headers = [(b"content-type", b"application/json"), (b"host", b"here")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "http_version": "1.1",
            "scheme": "http",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("here", 80),
        }
        await app(scope, receive, send)
        return sent

    return asyncio.run(scenario())


def data_of(messages: list[bytes]) -> list[Any]:
    lines = b"".join(messages).decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("n", [1, 3])
def test_a_chat_comes_in_a_few_frames_with_all_its_text(n: int) -> None:
    ask = {"messages": [{"role": "user", "content": "Hi"}], "n": n}
    messages = read_slowly("word " * 200, "/v1/chat/completions", ask)
    assert len(messages) <= 3 + n
    texts = [""] * n
    for chunk in data_of(messages):
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["word " * 200] * n


def test_the_deltas_of_what_was_joined_are_written_in_one_message() -> None:
    text = "Let me see." + calls(call("weather", city="Bern"), call("clock"))
    ask = {"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS}
    messages = read_slowly(text, "/v1/chat/completions", ask)
    assert len(messages) <= 4
    deltas = [choice["delta"] for chunk in data_of(messages) for choice in chunk["choices"]]
    names = [made["function"].get("name") for delta in deltas for made in delta.get("tool_calls", ())]
    assert [name for name in names if name] == ["weather", "clock"]


def test_anthropics_events_keep_their_order_when_joined() -> None:
    text = "Hm.</think>Let me see." + calls(call("weather", city="Bern"))
    ask = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2000,
        "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
        "thinking": {"type": "adaptive"},
    }
    messages = read_slowly(text, "/v1/messages", ask)
    assert len(messages) <= 4
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    names = [event["type"] for event in data_of(messages)]
    once = [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]
    assert once == ["message_start", "ping", *block * 3, "message_delta", "message_stop"]
