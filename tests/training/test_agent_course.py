"""The agent's course: whole trajectories, what they teach and what they keep from training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import deepseek.models
from deepseek.chat.template import ChatTemplate, encode_chat
from deepseek.core.messages import Message, TextPart, ToolCallPart, ToolResultPart, ToolSpec
from deepseek.evaluation.families import parse_calls
from deepseek.models.tokenizer import Tokenizer as ServingTokenizer
from deepseek.training.curriculum import (
    AGENT_FAMILIES,
    Sample,
    chains,
    course_mix,
    course_sample_at,
    encode,
    encode_segments,
    eval_draws,
    follow_ups,
    mishaps,
    several,
)
from deepseek.training.curriculum.mix import is_held_out
from deepseek.training.curriculum.paraphrase import notes, quantities, sums, talk
from deepseek.training.curriculum.paraphrase.grammar import is_withheld_reading, normal
from deepseek.training.curriculum.sample import MISTAKE, text_of
from deepseek.training.curriculum.trajectory import CANONICAL, toolbox

BUILTIN = Path(deepseek.models.__path__[0]) / "builtin"
CONTEXT = 512


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BUILTIN / "tokenizer.json"))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [course_sample_at(11, index, index / 1500) for index in range(1500)]


def test_a_seed_and_an_index_always_give_the_same_trajectory() -> None:
    assert course_sample_at(3, 1_000_000, 0.5) == course_sample_at(3, 1_000_000, 0.5)
    assert course_sample_at(3, 7, 0.5) != course_sample_at(4, 7, 0.5)


def test_the_shares_sum_to_one_and_several_steps_come_later() -> None:
    for progress in (-1, 0, 0.1, 0.25, 0.6, 1, 2):
        assert sum(course_mix(progress).values()) == pytest.approx(1)
    assert course_mix(0)["chained"] < course_mix(0.2)["chained"] < course_mix(1)["chained"]
    assert course_mix(0)["single"] > course_mix(1)["single"]


def test_both_languages_and_all_kinds_are_there(samples: list[Sample]) -> None:
    assert mean(sample.language == "zh" for sample in samples) == pytest.approx(0.5, abs=0.05)
    assert {sample.family for sample in samples} == {*course_mix(1)}


def test_training_shows_no_held_out_text_and_no_withheld_reading(samples: list[Sample]) -> None:
    assert not any(is_held_out(sample.user_text) for sample in samples)
    assert not any(sample.withheld for sample in samples)
    rng = Random(1)
    for _ in range(300):
        template = talk.say(rng, "en", lambda: rng.choice(talk.EN["hello"]), talk.AVOID, False)
        assert not is_withheld_reading(template)


@pytest.mark.parametrize("module", [sums, quantities, notes, talk])
def test_no_reading_of_a_pattern_is_a_withheld_phrasing_of_the_basics(module: Any) -> None:
    assert len(module.AVOID) > 15
    assert all(phrasing == normal(phrasing) for phrasing in module.AVOID)


@pytest.mark.parametrize("family", AGENT_FAMILIES)
@pytest.mark.parametrize("withheld", [False, True])
def test_held_out_trajectories_are_distinct_and_bilingual(family: str, withheld: bool) -> None:
    draws = eval_draws(family, None, 60, withheld_phrasings=withheld)
    assert len({text_of(sample.prompt()) for sample in draws}) == 60
    assert all(sample.withheld == withheld for sample in draws)
    assert withheld or all(is_held_out(sample.user_text) for sample in draws)
    assert sum(sample.language == "en" for sample in draws) == 30


def test_all_but_a_few_fit_the_context(samples: list[Sample], tokenizer: Tokenizer) -> None:
    lengths = [len(encode(sample, tokenizer)[0]) for sample in samples]
    assert mean(lengths) <= 240
    assert mean(length > CONTEXT for length in lengths) < 0.01


def test_a_call_fits_the_schema_it_was_made_for(samples: list[Sample]) -> None:
    for sample in samples:
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in sample.tools}
        assert len(tools) == len(sample.tools)
        for message in sample.messages:
            if message.get(MISTAKE):
                continue
            for call in message.get("tool_calls") or ():
                parameters = tools[call["function"]["name"]]
                arguments = json.loads(call["function"]["arguments"])
                assert set(parameters["required"]) <= set(arguments) <= set(parameters["properties"])
                assert list(arguments) == [name for name in parameters["properties"] if name in arguments]


def test_every_call_has_its_result_before_the_assistant_goes_on(samples: list[Sample]) -> None:
    for sample in samples:
        waiting = 0
        for message in sample.messages:
            if message["role"] == "tool":
                waiting -= 1
            elif message["role"] == "assistant":
                assert waiting == 0
                waiting = len(message.get("tool_calls") or ())
        if sample.kind == "trajectory":
            assert waiting == 0 and sample.messages[-1]["content"]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_later_call_of_a_chain_uses_what_came_before(language: Any) -> None:
    rng = Random(5)
    for _ in range(300):
        trajectory = chains.chained(rng, language, False)
        for before, after in zip(trajectory.rounds, trajectory.rounds[1:], strict=False):
            seen = before[-1].result
            values = [str(value) for value in after[0].arguments.values()]
            pieces = [piece for value in values for piece in re.findall(r"[\w.\-]+", value)]
            assert any(piece in seen for piece in pieces), (trajectory.text, seen, values)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_independent_requests_are_made_in_one_message_and_told_in_order(language: Any) -> None:
    rng = Random(6)
    for _ in range(200):
        trajectory = several.parallel(rng, language, False)
        assert len(trajectory.rounds) == 1 and len(trajectory.rounds[0]) >= 2
        assert trajectory.answer.count("\n") == len(trajectory.rounds[0]) - 1


def test_a_follow_up_has_an_exchange_before_it() -> None:
    rng = Random(7)
    kinds = [follow_ups.follow_up(rng, "en", False) for _ in range(200)]
    assert all(len(trajectory.earlier) == 1 for trajectory in kinds)
    assert 0.05 < mean(not trajectory.rounds for trajectory in kinds) < 0.6


def test_a_call_that_went_wrong_is_made_again_right_or_told() -> None:
    rng = Random(8)
    for _ in range(400):
        trajectory = mishaps.retry(rng, "en", False)
        first = trajectory.rounds[0][0]
        if first.wrong:
            assert trajectory.rounds[1][0].arguments != first.arguments or first.wrong_name or first.result
        if len(trajectory.rounds) == 1:
            assert "reported an error" in trajectory.answer


def test_an_error_speaks_of_the_tools_of_its_own_prompt(samples: list[Sample]) -> None:
    results = [message["content"] for sample in samples for message in sample.messages if message["role"] == "tool"]
    assert not any(re.search(r"<(tool|schema|value|key|date|expression)>", result) for result in results)
    assert any("the arguments do not fit" in result for result in results)


def test_an_answer_quotes_an_error_without_its_prefix() -> None:
    assert mishaps.told("en", "error: timeout") == "The tool reported an error: timeout."
    assert mishaps.told("zh", '{"error": "no access"}') == "工具报错：no access。"


def test_two_thirds_of_the_prompts_offer_the_agents_own_tools() -> None:
    rng = Random(9)
    own = {spec.names[0] for spec in CANONICAL}
    boxes = [toolbox(rng, {"calculate", "convert", "search"}, "en") for _ in range(300)]
    assert (
        0.6
        < mean({"calculator", "convert", "web_search"} <= {t.name for t in box.dressed} & own for box in boxes)
        < 0.85
    )


def test_a_toolbox_serves_what_is_needed_and_nothing_to_be_avoided() -> None:
    rng = Random(10)
    for _ in range(300):
        box = toolbox(rng, {"memory_get"}, "zh", avoid=("calculate",))
        served = {operation for tool in box.dressed for operation in tool.spec.serves}
        assert "memory_get" in served and "calculate" not in served
        assert len({tool["function"]["name"] for tool in box.tools}) == len(box.tools)


def test_a_mistake_is_rendered_and_never_learnt(tokenizer: Tokenizer) -> None:
    sample = next(
        s for s in (course_sample_at(2, i, 1) for i in range(3000)) if any(m.get(MISTAKE) for m in s.messages)
    )
    ids, mask = encode(sample, tokenizer)
    learnt = tokenizer.decode([i for i, own in zip(ids, mask, strict=True) if own], skip_special_tokens=False)
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    calls = [(bool(m.get(MISTAKE)), c["function"]) for m in sample.messages for c in m.get("tool_calls") or ()]
    assert {True, False} == {wrong for wrong, _ in calls}
    assert whole == text_of(sample.segments())
    assert learnt.count("<｜tool▁call▁begin｜>") == sum(not wrong for wrong, _ in calls)


def test_turns_are_what_the_assistant_writes_after_the_users_last_words(tokenizer: Tokenizer) -> None:
    for family in AGENT_FAMILIES:
        for sample in eval_draws(family, None, 20):
            turns = sample.turns()
            assert turns
            if sample.kind != "trajectory":
                continue
            assert not turns[-1].calls and turns[-1].fact
            for turn in turns[:-1]:
                place = len(turn.prompt)
                written = encode_segments(sample.segments()[place:], tokenizer)[0]
                end = written.index(1) + 1  # up to the end of this message
                assert parse_calls(written[:end], tokenizer) == [(n, dict(a)) for n, a in turn.calls]


def chat_messages(sample: Sample) -> list[Message]:
    """The conversation in the server's own type."""
    out = []
    for message in sample.messages:
        parts: list[Any] = [TextPart(message["content"])] if message["content"] and message["role"] != "tool" else []
        if message["role"] == "tool":
            parts.append(ToolResultPart("call_0", message["content"]))
        for call in message.get("tool_calls") or ():
            parts.append(ToolCallPart(call["id"], call["function"]["name"], call["function"]["arguments"]))
        out.append(Message(message["role"], tuple(parts)))
    return out


def test_the_server_encodes_a_trajectory_to_the_ids_that_were_trained(
    samples: list[Sample], tokenizer: Tokenizer
) -> None:
    serving = ServingTokenizer.from_dir(BUILTIN)
    template = ChatTemplate.from_tokenizer(serving)
    for sample in samples[::10]:
        functions = [tool["function"] for tool in sample.tools]
        tools = [ToolSpec(f["name"], f["description"], f["parameters"]) for f in functions]
        served = encode_chat(serving, template, chat_messages(sample), tools, add_generation_prompt=False)
        assert served == encode(sample, tokenizer)[0]


def test_rendering_equals_the_jinja_template_on_trajectories(samples: list[Sample]) -> None:
    oracle = PreTrainedTokenizerFast.from_pretrained(BUILTIN)
    for sample in samples[::10]:
        rendered = oracle.apply_chat_template(list(sample.messages), tools=list(sample.tools) or None, tokenize=False)
        assert text_of(sample.segments()) == rendered
