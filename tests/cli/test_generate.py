"""`deepseek generate`: one prompt in, one completion out, as text or as one JSON object."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run

GREEDY = ("--max-tokens", 5, "--temperature", 0, "--ignore-eos")


def test_json_is_one_object_with_text_ids_reason_and_usage(
    spawn: Callable[..., subprocess.Popen[str]], model_dir: Path
) -> None:
    process = spawn("generate", "--model", model_dir, "--prompt-ids", "1,2,3", *GREEDY, "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    answer = json.loads(out)
    assert out.count("\n") == 1
    assert answer.keys() == {"text", "token_ids", "finish_reason", "usage"}
    assert len(answer["token_ids"]) == 5 and all(isinstance(token, int) for token in answer["token_ids"])
    assert isinstance(answer["text"], str) and answer["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def test_a_prompt_of_text_prints_the_text_alone_and_greedy_repeats_itself(run: Run, model_dir: Path) -> None:
    plain = run("generate", "--model", model_dir, "--prompt", "Hello", *GREEDY)
    as_json = json.loads(run("generate", "--model", model_dir, "--prompt", "Hello", *GREEDY, "--json").out)
    assert (plain.code, plain.err) == (0, "")
    assert plain.out == as_json["text"] + "\n"


def test_a_seed_makes_sampling_repeatable(run: Run, model_dir: Path) -> None:
    def ids(seed: int) -> list[int]:
        command = ("generate", "--model", model_dir, "--prompt", "Hello", "--max-tokens", 12, "--ignore-eos", "--json")
        return list(json.loads(run(*command, "--seed", seed).out)["token_ids"])

    assert ids(1) == ids(1) != ids(2)


def test_a_stop_text_ends_the_output_and_is_no_part_of_it(run: Run, model_dir: Path) -> None:
    command = ("generate", "--model", model_dir, "--prompt", "Hello", "--max-tokens", 20, "--temperature", 0, "--json")
    whole = json.loads(run(*command, "--ignore-eos").out)["text"]
    stop = whole[len(whole) // 2 :][:3]
    cut = json.loads(run(*command, "--ignore-eos", "--stop", stop).out)
    assert cut["text"] == whole[: whole.index(stop)] and cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), "one of --prompt and --prompt-ids is needed; found neither"),
        (("--prompt", "a", "--prompt-ids", "1"), "one of --prompt and --prompt-ids is needed; found both"),
        (("--prompt-ids", "1,x"), "--prompt-ids: not a token id; found 'x'; expected numbers like 1,2,3"),
        (("--prompt-ids", ""), "--prompt-ids: not a token id; found ''"),
        (("--prompt-ids", "1,-2"), "--prompt-ids: not a token id; found '-2'"),
        (("--prompt-ids", "1,2²"), "--prompt-ids: not a token id"),
        (("--prompt-ids", "4096"), "not a token id of this model; found 4096; expected 0 to 4095"),
        (("--prompt", "a", "--temperature", "nan"), "temperature: not a finite number"),
        (("--prompt", "a", "--temperature", "-1"), "temperature: out of range"),
        (("--prompt", "a", "--top-p", "0"), "top_p: out of range"),
        (("--prompt", "a", "--max-tokens", "0"), "max_tokens: out of range"),
        (("--prompt", "a", "--stop", ""), "stop strings must be non-empty"),
        (("--prompt", "a", "--max-model-len", "65"), "max_model_len: out of range; found 65; expected 2 to 64"),
        (("--prompt-ids", ",".join(["5"] * 80)), "found 80 tokens; expected at most 63"),
    ],
)
def test_a_bad_value_is_one_line(
    refused: Callable[..., str], model_dir: Path, args: tuple[str, ...], expected: str
) -> None:
    assert expected in refused("generate", "--model", model_dir, *args)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("no-such-directory", "no such model"),
        ("no-such/model", "no-such/model: cannot be had from the hub"),
        ("{tmp}", "config.json: no such file"),
    ],
)
def test_a_missing_model_is_one_line(refused: Callable[..., str], tmp_path: Path, model: str, expected: str) -> None:
    assert expected in refused("generate", "--prompt", "a", "--model", model.replace("{tmp}", str(tmp_path)))


def test_a_reader_that_leaves_early_is_no_reason_for_a_traceback(
    spawn: Callable[..., subprocess.Popen[str]], model_dir: Path
) -> None:
    process = spawn("generate", "--model", model_dir, "--prompt", "a", "--max-tokens", 50, "--ignore-eos")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(60), errors) == (1, "")
