"""Anthropic's `thinking.budget_tokens` on a real engine: the built-in model, with a template that opens its thinking."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from deepseek.api import ServerState, serving
from deepseek.chat.codec import TextCodec
from deepseek.chat.markup import THINK_BEGIN, THINK_END
from deepseek.core.engine import Request, ThinkingBound
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.engine import Engine
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer

MODEL = "deepseek-tiny"
TEMPLATE = (
    "{{- '<｜begin▁of▁sentence｜>' -}}"
    "{%- for message in messages -%}{{- '<｜User｜>' + message['content'] -}}{%- endfor -%}"
    "{{- '<｜Assistant｜>' + ('<think>' if thinking else '</think>') -}}"
)
ASK: list[Any] = [{"role": "user", "content": "Tell me a long story."}]


class Watched(Engine):
    """Keeps what it was asked."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.asked: list[Request] = []

    def generate(self, request: Request) -> Any:
        self.asked.append(request)
        return super().generate(request)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Watched, TextCodec]]:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin_dir() / name, directory)
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    codec = TextCodec(Tokenizer.from_dir(directory))
    assert codec.thinks
    loaded = build_loop("builtin", EngineOptions(max_sequences=4))
    engine = Watched(loaded.loop, loaded.weights, loaded.grammars)
    with serving(ServerState(engine, codec, (MODEL,), loaded.max_model_len), grace_s=1.0) as server:
        yield server.url, engine, codec


def ask(url: str, **options: Any) -> Any:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        return client.messages.create(
            model=MODEL, max_tokens=60, messages=ASK, extra_body={"temperature": 0}, **options
        )


def test_thinking_ends_where_its_budget_does_and_the_answer_follows(served: tuple[str, Watched, TextCodec]) -> None:
    url, engine, codec = served
    end_id = codec.thinking_end()
    assert end_id == codec.tokenizer.token_id(THINK_END) and codec.tokenizer.token_id(THINK_BEGIN) is not None
    for budget in (1, 7):
        answer = ask(url, thinking={"type": "enabled", "budget_tokens": budget})
        assert end_id is not None and engine.asked[-1].thinking == ThinkingBound(budget, end_id)
        thought = "".join(block.thinking for block in answer.content if block.type == "thinking")
        assert len(codec.tokenizer.encode(thought, add_bos=False)) <= budget
        assert answer.usage.output_tokens > budget or answer.stop_reason == "end_turn"
        assert THINK_END not in str(answer.content)


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "disabled"}])
def test_without_a_budget_nothing_bounds_it(served: tuple[str, Watched, TextCodec], thinking: Any) -> None:
    url, engine, _ = served
    ask(url, thinking=thinking)
    assert engine.asked[-1].thinking is None


def test_a_budget_and_a_schema_hold_together(served: tuple[str, Watched, TextCodec]) -> None:
    url, _, _ = served
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    form: Any = {"format": {"type": "json_schema", "schema": schema | {"additionalProperties": False}}}
    answer = ask(url, thinking={"type": "enabled", "budget_tokens": 3}, output_config=form)
    assert answer.content[-1].text.replace(" ", "") in ('{"a":true}', '{"a":false}')
