"""The plugins that come with the package, in a server: a prompt with passages before it, a stream held to rules."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_support import CONTEXT, MODELS, ByteCodec
from plugins_support import MODEL, Recording, registered_here

import deepseek.plugins.registry as registry
from deepseek.api import ServerState, serving
from deepseek.plugins.config import PluginConfig
from deepseek.plugins.manager import PluginManager
from deepseek.tenancy.documents import DocumentIndex, offer

registry.available()


@pytest.fixture(autouse=True, scope="module")
def own_registry() -> Iterator[None]:
    with registered_here():
        yield


def state(engine: Recording, name: str, **params: Any) -> ServerState:
    config = PluginConfig.model_validate(
        {"name": name, "params": params, "on_failure": "closed", "deadline_ms": 20_000}
    )
    return ServerState(engine, ByteCodec(), MODELS, engine.max_model_len, plugins=PluginManager([config]))


def asked(state: ServerState, prompt: str, *, stream: bool = False) -> httpx.Response:
    with serving(state) as server:
        return httpx.post(
            f"{server.url}/v1/generate",
            json={"model": MODEL, "prompt": prompt, "max_tokens": 100, "stream": stream},
            timeout=60,
        )


RULES = [
    {"name": "plan", "terms": ["猎鹰计划"], "message": "Ask the press office."},
    {"name": "mail", "kinds": ["email"], "action": "mask", "mask": "[removed]"},
]


def test_an_answer_is_masked_in_a_stream_of_bytes() -> None:
    answer = asked(state(Recording("Ask ann@example.org, 好"), "moderation", rules=RULES), "hello", stream=True)
    assert answer.status_code == 200
    assert "ann" not in answer.text and "[removed]" in answer.text


def test_a_refused_prompt_never_reaches_the_engine() -> None:
    engine = Recording()
    answer = asked(state(engine, "moderation", rules=RULES), "请介绍猎鹰计划")
    assert answer.status_code == 403
    assert answer.json()["type"].endswith("refused-by-plugin") and "Ask the press office." in answer.text
    assert engine.requests == []


def test_a_refused_answer_is_not_given() -> None:
    answer = asked(state(Recording("这是猎鹰计划的内容"), "moderation", rules=RULES), "hello", stream=True)
    assert "猎鹰计划" not in answer.text and "refused-by-plugin" in answer.text


def test_passages_of_the_tenants_documents_reach_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_DATA", str(tmp_path))
    monkeypatch.setattr("deepseek.core.documents._OPENERS", [])
    offer()
    index = DocumentIndex()

    asyncio.run(index.put("handbook.md", "员工请假需要提前三天申请。", tenant="local"))
    engine = Recording()
    engine.max_model_len = max(CONTEXT, 4096)
    answer = asked(state(engine, "retrieval"), "请假怎么申请？")
    index.close()
    assert answer.status_code == 200
    assert "> [1] handbook.md" in engine.prompts[0] and engine.prompts[0].endswith("请假怎么申请？")
