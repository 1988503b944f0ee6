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
        (("--prompt", "a", "--max-tokens", "0"), "Invalid value for '--max-tokens'"),
        (
            ("--prompt", "a", "--max-tokens", "64"),
            "--max-tokens: more than the context leaves; found 64; expected at most",
        ),
        (
            ("--prompt-ids", "1,2,3", "--max-tokens", "62"),
            "expected at most 61 (a context of 64 less a prompt of 3 tokens)",
        ),
        (("--prompt", ""), "--prompt: the text is empty"),
        (("--prompt", "a", "--stop", ""), "stop: must be non-empty text"),
        (("--prompt", "a", "--min-p", "2"), "min_p: out of range"),
        (("--prompt", "a", "--presence-penalty", "3"), "presence_penalty: out of range"),
        (("--prompt", "a", "--n", "0"), "Invalid value for '--n'"),
        (("--prompt", "a", "--logprobs", "1"), "--logprobs: scores are only shown in JSON. Fix: add --json"),
        (("--prompt", "a", "--regex", "a", "--choice", "b"), "give one of --json-schema, --regex and --choice"),
        (("--prompt", "a", "--json-schema", "no-such.json"), "--json-schema no-such.json: cannot be read"),
        (("--prompt", "a", "--regex", "(?=a)b"), "constraint regex: this regular expression cannot be enforced"),
        (("--prompt", "a", "--adapter", "no-such-directory"), "no-such-directory: is not a PEFT adapter"),
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


def test_several_completions_are_numbered_or_listed(run: Run, model_dir: Path) -> None:
    command = ("generate", "--model", model_dir, "--prompt", "Hello", "--max-tokens", 4, "--n", 2, "--seed", 1)
    answer = json.loads(run(*command, "--ignore-eos", "--json").out)
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts[0] != texts[1] and answer["text"] == texts[0]
    assert answer["usage"]["completion_tokens"] == 8
    assert run(*command, "--ignore-eos").out == f"[0] {texts[0]}\n[1] {texts[1]}\n"


def test_scores_come_with_every_token(run: Run, model_dir: Path) -> None:
    answer = json.loads(
        run("generate", "--model", model_dir, "--prompt", "Hello", *GREEDY, "--json", "--logprobs", 2).out
    )
    assert [entry["token_id"] for entry in answer["logprobs"]] == answer["token_ids"]
    for entry in answer["logprobs"]:
        assert entry["logprob"] <= 0 and len(entry["top"]) == 2
        assert entry["top"][0]["token_id"] == entry["token_id"]  # greedy takes the best


def test_the_output_is_held_to_a_schema(run: Run, model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 2}')
    answer = json.loads(run("generate", "--model", model_dir, "--prompt", "a", "--json-schema", file).out)
    assert len(answer) == 2 and set(answer) <= {"a", "b"}


@pytest.mark.parametrize(
    ("args", "allowed"), [(("--choice", "yes", "--choice", "no"), "yes no"), (("--regex", "x"), "x")]
)
def test_the_output_is_one_of_the_texts_allowed(run: Run, model_dir: Path, args: tuple[str, ...], allowed: str) -> None:
    assert run("generate", "--model", model_dir, "--prompt", "a", *args).out.strip() in allowed.split()


def test_an_adapter_changes_what_is_said(run: Run, model_dir: Path, adapter_dir: Path) -> None:
    command = ("generate", "--model", model_dir, "--prompt", "Hello", *GREEDY)
    adapted = run(*command, "--adapter", adapter_dir)
    assert (adapted.code, adapted.err) == (0, "") and adapted.out != run(*command).out


def test_by_default_it_writes_as_far_as_the_context_reaches(run: Run, model_dir: Path) -> None:
    answer = json.loads(run("generate", "--model", model_dir, "--prompt-ids", "1,2,3", "--ignore-eos", "--json").out)
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 61, "total_tokens": 64}
