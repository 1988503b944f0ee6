"""lm-eval's own `local-completions` model against our /v1/completions (make conformance): it measures what the engine says.

lm-eval lives in an environment of its own (requirements/conformance.lock), whose interpreter LM_EVAL_PYTHON names. Its
tasks and their questions are written here, so nothing is fetched.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deepseek.api import ServerState, serving
from deepseek.chat.codec import TextCodec
from deepseek.core.engine import Request
from deepseek.core.sampling import SamplingParams
from deepseek.engine.build import EngineOptions, build_loop
from deepseek.engine.engine import Engine
from deepseek.models.locate import builtin_dir
from deepseek.models.tokenizer import Tokenizer

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

MODEL = "deepseek-tiny"
QUESTIONS = [
    {"question": f"What is {a} times {b}?", "choices": [str(a * b), str(a + b), "a cat"], "gold": 0}
    for a, b in ((3, 4), (7, 8), (12, 7), (5, 5))
] + [{"question": "水的化学式是什么？", "choices": ["H2O", "二氧化碳"], "gold": 0}]
TASKS = {
    "choosing": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\n",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    },
    "reading": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices[0]}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "saying": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@dataclass
class Running:
    url: str
    engine: Engine
    tokenizer: Tokenizer

    def score(self, context: str, continuation: str) -> float:
        """The log-probability of a continuation, asked of the engine itself. White space before it belongs to it."""
        ids = self.tokenizer.encode(context + continuation, add_bos=False)
        begins = len(self.tokenizer.encode(context.rstrip(), add_bos=False))
        return self.score_ids(ids, begins)

    def score_ids(self, ids: Sequence[int], begins: int) -> float:
        request = Request("score", tuple(ids), SamplingParams(max_tokens=1, prompt_logprobs=0))
        scores = asyncio.run(self.engine.score(request)).logprobs
        return sum(score.logprob for score in scores[begins:] if score is not None)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    loaded = build_loop("builtin", EngineOptions(max_sequences=4))
    engine = Engine(loaded.loop, loaded.weights, loaded.grammars)
    state = ServerState(engine, TextCodec(loaded.tokenizer), (MODEL,), loaded.max_model_len)
    with serving(state, grace_s=1.0) as server:
        yield Running(server.url, engine, loaded.tokenizer)


@pytest.fixture(scope="module")
def samples(running: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What lm-eval wrote down of each task, by its name."""
    python = Path(os.environ.get("LM_EVAL_PYTHON") or Path(sys.prefix) / "conformance" / "bin" / "python")
    if not python.exists():
        pytest.skip(f"no interpreter with lm-eval at {python}: `make conformance` makes one")
    directory = tmp_path_factory.mktemp("lm_eval")
    data = directory / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for name, task in TASKS.items():
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        # YAML has JSON in it.
        (directory / f"{name}.yaml").write_text(json.dumps({"task": name, **source, **task}))
    arguments = {
        "model": MODEL,
        "base_url": f"{running.url}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": builtin_dir(),
        "num_concurrent": 1,
        "max_length": 512,
    }
    command = [python, "-m", "lm_eval", "--model", "local-completions", "--tasks", ",".join(TASKS)]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())]
    command += ["--include_path", directory, "--output_path", directory / "out", "--log_samples"]
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(directory / "hf")}
    done = subprocess.run(
        list(map(str, command)), env=os.environ | offline, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = {}
    for name in TASKS:
        (file,) = (directory / "out").rglob(f"samples_{name}_*.jsonl")
        found[name] = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(found[name]) == len(QUESTIONS)
    return found


def test_choices_are_weighed_as_the_engine_weighs_them(running: Running, samples: dict[str, list[Any]]) -> None:
    compared = 0
    for sample in samples["choosing"]:
        weighed = [float(response[0][0]) for response in sample["resps"]]
        texts = [(given["arg_0"], given["arg_1"]) for given in sample["arguments"].values()]
        assert weighed == pytest.approx([running.score(*text) for text in texts], abs=1e-4)
        best = max(range(len(weighed)), key=weighed.__getitem__)
        assert sample["acc"] == float(best == sample["doc"]["gold"])
        compared += len(weighed)
    assert compared == sum(len(question["choices"]) for question in QUESTIONS)  # type: ignore[misc, arg-type]


def test_a_text_is_read_as_the_engine_reads_it(running: Running, samples: dict[str, list[Any]]) -> None:
    for sample in samples["reading"]:
        (text,) = [given["arg_0"] for given in sample["arguments"].values()]
        # It puts the first token of all texts before each, so that what follows has something to follow.
        wanted = running.score_ids(running.tokenizer.encode(text), 1)
        assert float(sample["resps"][0][0]) == pytest.approx(wanted, abs=1e-4)


def test_what_it_has_said_is_what_the_engine_says(running: Running, samples: dict[str, list[Any]]) -> None:
    for sample in samples["saying"]:
        (prompt,) = [given["arg_0"] for given in sample["arguments"].values()]
        ids = tuple(running.tokenizer.encode(prompt, add_bos=False))

        async def said(ids: tuple[int, ...] = ids) -> str:
            params = SamplingParams(max_tokens=12, temperature=0.0, stop=("\n\n",))
            events = running.engine.generate(Request("say", ids, params))
            return "".join([event.text async for event in events if hasattr(event, "text")])

        assert sample["resps"][0][0] == asyncio.run(said())
