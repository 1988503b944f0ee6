"""`deepseek evaluate`: how much of the built-in curriculum a model answers right, family by family."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from rich.console import Console

from deepseek.cli.progress import Ticker
from deepseek.core.errors import TokenizerError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions
from deepseek.engine.llm import LLM
from deepseek.evaluation.families import Report, Score, evaluate_families
from deepseek.models.locate import locate
from deepseek.models.quantize import QuantizationChoice
from deepseek.training.curriculum import AGENT_FAMILIES, FAMILIES

MAX_ANSWER_TOKENS = 256  # the curriculum's longest answers stay below
BATCH = 32
PHRASINGS = ("seen", "withheld")


def run(
    model: str,
    *,
    draws: int,
    families: Sequence[str],
    seed: int,
    failures: int,
    json_output: bool,
    agent: bool = False,
    quantization: QuantizationChoice = "none",
    quantization_cache: Path | None = None,
) -> None:
    """Answer `draws` held-out questions a family, greedily, and print the table (Markdown) or one JSON object.

    The questions are the curriculum's own: they say something about models trained on it, such as the built-in one.
    agent: through an agent's loop, which calls the tools, instead of turn by turn.
    """
    directory = locate(model)
    options = EngineOptions(max_sequences=BATCH, quantization=quantization, quantization_cache=quantization_cache)
    chosen = tuple(dict.fromkeys(families)) or (*FAMILIES, *AGENT_FAMILIES)
    ask = _through_an_agent if agent else _turn_by_turn
    with Ticker(Console(stderr=True), draws * len(chosen) * len(PHRASINGS)) as ticker:
        report = ask(directory, options, chosen, draws, seed, failures, ticker)
    totals = [report.single_call(phrasings) for phrasings in PHRASINGS]
    if json_output:
        print(json.dumps(report.to_json() | {"single_call": [_as_json(score) for score in totals]}, ensure_ascii=False))
        return
    print(report.table())
    print()
    for score in totals:
        if score.total:
            low, high = score.interval
            print(
                f"single calls, {score.phrasings} phrasings: {score.correct}/{score.total} = {score.share:.1%} "
                f"(95 % interval {low:.1%} – {high:.1%})"
            )
    _print_failures(report)


def _turn_by_turn(
    directory: Path,
    options: EngineOptions,
    families: Sequence[str],
    draws: int,
    seed: int,
    failures: int,
    ticker: Ticker,
) -> Report:
    llm = LLM(directory, options=options)
    tokenizer = _fast_tokenizer(str(directory / "tokenizer.json"))
    greedy = SamplingParams(temperature=0, max_tokens=MAX_ANSWER_TOKENS)

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        return [completion.token_ids for completion in llm.generate(prompts, greedy)]

    return evaluate_families(
        generate,
        tokenizer,
        families,
        draws,
        PHRASINGS,
        seed,
        kept_failures=failures,
        on_progress=lambda family, done, _total: ticker.update(done, family),
    )


def _through_an_agent(
    directory: Path,
    options: EngineOptions,
    families: Sequence[str],
    draws: int,
    seed: int,
    failures: int,
    ticker: Ticker,
) -> Report:
    from deepseek.agent.exam import examine
    from deepseek.chat.local import LocalModel

    model = LocalModel.load(directory, options)

    async def ask() -> Report:
        try:
            return await examine(
                model,
                families,
                draws,
                PHRASINGS,
                seed,
                failures,
                at_once=BATCH,
                on_progress=lambda family, done: ticker.update(done, family),
            )
        finally:
            await model.close()

    return asyncio.run(ask())


def _as_json(score: Score) -> dict[str, object]:
    low, high = score.interval
    return {
        "phrasings": score.phrasings,
        "correct": score.correct,
        "total": score.total,
        "share": round(score.share, 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def _print_failures(report: Report) -> None:
    for failure in report.failures:
        print(f"\n{failure.family} ({failure.language}), asked:    {failure.asked}")
        print(f"    expected: {failure.expected}")
        print(f"    answered: {failure.answered}")


def _fast_tokenizer(file: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(file)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError("cannot be read", where=file, found=error) from error
