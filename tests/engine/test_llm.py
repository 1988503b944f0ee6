"""The offline front, on tiny models with the shipped tokenizer, and once as a user gets it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_support import ScriptedWorker, random_ids, scheduler_config, tiny_config, tiny_model
from weights_support import write_adapter

from deepseek import LLM, Completion, SamplingParams
from deepseek.core.constraint import Constraint
from deepseek.core.engine import Tokens
from deepseek.core.errors import AdmissionError, CheckpointError, ConfigError, EngineError
from deepseek.engine.build import LoadedModel
from deepseek.engine.grammar.compiler import GrammarCompiler
from deepseek.engine.loop import EngineLoop
from deepseek.engine.weights import Weights
from deepseek.engine.worker import StepWorker, Worker
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_dir(builtin_dir())


def llm_on(worker: StepWorker | None = None, **changes: int) -> LLM:
    size, ends = tokenizer().vocab_size, tokenizer().eos_ids
    config = scheduler_config(**changes)
    worker = worker or Worker(tiny_model("grouped_query", size), config.num_blocks, config.block_size)
    loop = EngineLoop(worker, tokenizer(), config, vocab_size=size)
    return LLM(
        LoadedModel(
            builtin_dir(),
            tiny_config("grouped_query", size),
            tokenizer(),
            loop,
            loop.scheduler.max_length,
            Weights(worker) if isinstance(worker, Worker) else None,
            grammars=GrammarCompiler(tokenizer(), size, sorted(ends)),
        )
    )


def ids_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


def sound(llm: LLM) -> bool:
    loop = llm._loaded.loop
    loop.scheduler.check()
    return not loop.has_work and loop.load().blocks_used == 0


def test_text_and_its_ids_give_the_same_completion() -> None:
    llm = llm_on()
    ids = tokenizer().encode("Hello, 你好")
    texts = llm.generate(["Hello, 你好"], GREEDY)
    assert ids_of(texts) == ids_of(llm.generate([ids], GREEDY)) == ids_of(llm.generate(ids, GREEDY))
    assert ids_of(llm.generate("Hello, 你好", GREEDY)) == ids_of(texts)
    assert ids_of(llm.generate(np.array(ids), GREEDY)) == ids_of(texts)  # type: ignore[arg-type]
    assert texts[0].text == tokenizer().decode(texts[0].token_ids)
    assert texts[0].usage.prompt_tokens == len(ids) and texts[0].usage.completion_tokens == 6
    assert texts[0].finish_reason == "length" and texts[0].logprobs is None


def test_every_prompt_has_its_own_parameters_and_completions_come_in_order() -> None:
    llm = llm_on()
    prompts = [random_ids(3 + i, i, 1000) for i in range(4)]
    params = [
        SamplingParams(temperature=0, max_tokens=1 + i, n=1 + i % 2, logprobs=i or None, ignore_eos=True)
        for i in range(4)
    ]
    found = llm.generate(prompts, params)
    assert [len(completion.token_ids) for completion in found] == [1, 2, 2, 3, 4, 4]
    assert [completion.logprobs is None for completion in found] == [True, *[False] * 5]
    assert [len(completion.logprobs or ()) for completion in found] == [0, 2, 2, 3, 4, 4]
    for prompt, one, completion in zip(prompts, params, (found[0], found[1], found[3], found[4]), strict=True):
        assert llm.generate(prompt, one)[0].token_ids == completion.token_ids


def test_the_stream_is_what_the_completions_are_made_of() -> None:
    seen: dict[int, list[Tokens]] = {}
    found = llm_on().generate(
        ["one", "two"], GREEDY, on_token=lambda index, tokens: seen.setdefault(index, []).append(tokens)
    )
    for index, completion in enumerate(found):
        assert "".join(tokens.text for tokens in seen[index]) == completion.text
        assert [token for tokens in seen[index] for token in tokens.token_ids] == completion.token_ids


def test_500_prompts_pass_a_short_queue() -> None:
    llm = llm_on(ScriptedWorker(), max_waiting=3, max_sequences=8)
    found = llm.generate([[1 + i % 50] * (1 + i % 7) for i in range(500)], SamplingParams(max_tokens=2))
    assert len(found) == 500
    assert all(completion.finish_reason == "length" for completion in found)
    assert sound(llm)


def test_no_prompts_give_no_completions() -> None:
    assert llm_on().generate([]) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1] * 300, "prompt 2: the prompt leaves no room"),
        ([], "prompt 2: the prompt has no tokens"),
        ([1, 10**6], "prompt 2: not a token id of this model; found 1000000"),
        ([1, True], "prompt 2: not a prompt"),
        ([0.5], "prompt 2: not a prompt"),
        (None, "prompt 2: not a prompt"),
        ("\ud800", "prompt 2, character 0: the text is not valid Unicode"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_named_before_anything_is_computed(bad: object, message: str) -> None:
    worker = ScriptedWorker()
    llm = llm_on(worker)
    with pytest.raises(AdmissionError) as error:
        llm.generate([[1], [2], bad, [3]], GREEDY)  # type: ignore[list-item]
    assert str(error.value).startswith(message)
    assert worker.plans == [] and sound(llm)
    assert len(llm.generate([[1], [2]], GREEDY)) == 2


def test_as_many_parameters_as_prompts_are_needed() -> None:
    with pytest.raises(ConfigError, match="found 1; expected 2"):
        llm_on().generate([[1], [2]], [GREEDY])


def test_a_failing_model_is_an_engine_error_that_names_the_prompt() -> None:
    worker = ScriptedWorker()
    llm = llm_on(worker)
    worker.fail_with = RuntimeError("bad")
    with pytest.raises(EngineError, match="prompt 0: generation failed; found the model could not compute this step"):
        llm.generate([[1]], GREEDY)
    assert sound(llm)
    assert len(llm.generate([[1]], GREEDY)) == 1


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_step_leaves_the_model_usable(raised: BaseException) -> None:
    worker = ScriptedWorker()
    llm = llm_on(worker)
    expected = ids_of(llm.generate([[1], [2, 3]], GREEDY))
    worker.fail_with = raised
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        llm.generate([[1], [2, 3]], GREEDY)
    assert sound(llm)
    assert ids_of(llm.generate([[1], [2, 3]], GREEDY)) == expected


def test_a_step_that_fails_once_is_computed_again_and_costs_no_answer() -> None:
    worker = ScriptedWorker()
    llm = llm_on(worker)
    expected = ids_of(llm.generate([[1], [2, 3]], GREEDY))
    worker.fail_with = MemoryError()
    assert ids_of(llm.generate([[1], [2, 3]], GREEDY)) == expected
    assert sound(llm)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, BrokenPipeError])
def test_what_on_token_raises_comes_out_and_leaves_the_model_usable(raised: type[BaseException]) -> None:
    llm = llm_on()

    def on_token(index: int, tokens: Tokens) -> None:
        raise raised

    with pytest.raises(raised):
        llm.generate([[1], [2]], GREEDY, on_token=on_token)
    assert sound(llm)
    assert len(llm.generate([[1], [2]], GREEDY)) == 2


def test_the_shipped_model_answers_as_a_user_calls_it() -> None:
    found = LLM("builtin").generate("Hello", SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    assert len(found) == 1 and len(found[0].token_ids) == 4


@pytest.mark.parametrize("prompts", [b"abc", bytearray(b"abc"), None, 5, {"a": 1}, {1, 2}])
def test_what_is_no_prompt_is_refused_and_not_taken_for_token_ids(prompts: object) -> None:
    with pytest.raises(ConfigError, match="not a prompt"):
        llm_on().generate(prompts)  # type: ignore[arg-type]


def test_scores_are_the_logprobs_the_model_gives_its_own_prompt() -> None:
    llm = llm_on()
    prompts = [random_ids(1 + 20 * i, i, 1000) for i in range(3)]
    scores = llm.score(prompts, alternatives=1)
    assert [score.token_ids for score in scores] == [list(prompt) for prompt in prompts]
    assert scores[0].logprobs == [None] and scores[0].total == 0.0
    for prompt, score in zip(prompts[1:], scores[1:], strict=True):
        whole = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, ignore_eos=True))
        assert whole[0].prompt_logprobs == score.logprobs
        # Each token's score is the one it has when it is the last.
        alone = llm.score(prompt[:15])[0].logprobs[-1]
        entry = score.logprobs[14]
        assert alone is not None and entry is not None and alone.logprob == entry.logprob and len(entry.top) == 1
        assert score.total == sum(entry.logprob for entry in score.logprobs if entry is not None)
    assert sound(llm)


def test_prompts_become_vectors_of_length_one() -> None:
    llm = llm_on()
    prompts = ["one", "two words", "one"]
    for pooling in ("last", "mean"):
        vectors = llm.encode(prompts, pooling=pooling)  # type: ignore[arg-type]
        assert vectors.shape == (3, llm.config.hidden_size) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
        assert (vectors[0] == vectors[2]).all() and not np.allclose(vectors[0], vectors[1])
    assert llm.encode([]).shape == (0, llm.config.hidden_size) and sound(llm)


def test_a_constraint_holds_for_all_prompts_or_for_those_it_is_given_for() -> None:
    llm = llm_on()
    choice = Constraint.choice(["yes", "no"])
    params = SamplingParams(max_tokens=30, n=2)
    assert all(c.text in ("yes", "no") for c in llm.generate(["a", "b"], params, constraint=choice))
    found = llm.generate(["a", "b"], params, constraint=[None, choice])
    assert [c.text in ("yes", "no") for c in found] == [False, False, True, True]
    with pytest.raises(ConfigError, match="as many constraints as prompts are needed"):
        llm.generate(["a"], constraint=[choice, choice])
    with pytest.raises(AdmissionError, match="prompt 1, constraint"):
        llm.generate(["a", "b"], constraint=[None, Constraint.regex("(")])
    assert sound(llm)


def test_weights_sleep_and_wake_offline() -> None:
    llm = llm_on()
    before = ids_of(llm.generate([[1, 2, 3]], GREEDY))
    llm.sleep()
    with pytest.raises(EngineError, match=r"the model sleeps. Fix: call wake\(\)"):
        llm.generate([[1, 2, 3]], GREEDY)
    llm.wake()
    assert ids_of(llm.generate([[1, 2, 3]], GREEDY)) == before
    size = tokenizer().vocab_size
    assert llm.update_weights({"lm_head.weight": tiny_model("grouped_query", size).embed_tokens.rows.flip(0)}) == 1  # type: ignore[union-attr]
    assert ids_of(llm.generate([[1, 2, 3]], GREEDY)) != before
    with pytest.raises(CheckpointError, match="has no place"):
        llm.update_weights({"x": torch.ones(1)})
    with pytest.raises(AdmissionError, match="prompt 0, adapter: no adapter of this name is loaded"):
        llm.generate("a", adapter="style")
    with pytest.raises(ConfigError, match="no adapter of this name"):
        llm.unload_adapter("style")


def test_an_adapter_is_for_all_prompts_or_for_those_it_is_given_for(tmp_path: Path) -> None:
    llm = llm_on()
    model = tiny_model("grouped_query", tokenizer().vocab_size)
    llm.load_adapter("style", write_adapter(tmp_path, model, 5))
    plain, styled = (ids_of(llm.generate([[1, 2, 3]] * 2, GREEDY, adapter=name)) for name in (None, "style"))
    assert ids_of(llm.generate([[1, 2, 3]] * 2, GREEDY, adapter=[None, "style"])) == [plain[0], styled[1]]
    assert plain[0] != styled[0]
    llm.unload_adapter("style")
    assert ids_of(llm.generate([[1, 2, 3]] * 2, GREEDY)) == plain
    assert not model.layers[0].mlp.up_proj.low_rank and sound(llm)  # type: ignore[union-attr]
