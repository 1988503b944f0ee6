"""What `load` counts since the start: drafts and how many were right, prefix hits, evictions."""

from deepseek.core.constraint import Constraint
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import BLOCK_SIZE, EngineOptions, LoadedModel, build_loop
from deepseek.engine.llm import LLM


def loaded_with(**options: object) -> LoadedModel:
    return build_loop("builtin", EngineOptions(max_model_len=128, max_sequences=2, **options))  # type: ignore[arg-type]


def test_forced_tokens_are_drafts_that_are_always_right() -> None:
    loaded = loaded_with(speculation="ngram")
    [completion] = LLM(loaded).generate(
        "Hello", SamplingParams(max_tokens=40), constraint=Constraint.regex("abcabcabcabcabcabc")
    )
    load = loaded.loop.load()
    assert completion.text == "abcabcabcabcabcabc"
    assert 0 < load.accepted_tokens <= load.drafted_tokens
    assert load.speculating


def test_without_drafts_nothing_is_counted() -> None:
    loaded = loaded_with(speculation="off")
    LLM(loaded).generate("Hello", SamplingParams(max_tokens=4, ignore_eos=True))
    load = loaded.loop.load()
    assert (load.drafted_tokens, load.accepted_tokens, load.speculating) == (0, 0, False)


def test_hits_and_evictions_of_the_prefix_cache_are_counted() -> None:
    loaded = loaded_with(speculation="off")
    llm = LLM(loaded)
    one = SamplingParams(max_tokens=1)
    prompt = [7] * (2 * BLOCK_SIZE + 1)
    llm.generate(prompt, one)
    assert loaded.loop.load().prefix_hit_tokens == 0
    llm.generate(prompt, one)
    load = loaded.loop.load()
    assert load.prefix_hit_tokens == 2 * BLOCK_SIZE and load.prefix_evicted_blocks == 0
    for other in range(load.blocks_total):
        llm.generate([8 + other, *prompt[1:]], one)
    assert loaded.loop.load().prefix_evicted_blocks > 0
