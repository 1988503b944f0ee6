"""`deepseek serve`: it says what it serves, answers, and ends cleanly."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest


def lines_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if wanted in line:
            return lines
    raise AssertionError(f"ended before {wanted!r}: {lines}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_under_every_name_given_and_ends_cleanly_on_a_signal(
    spawn: Callable[..., subprocess.Popen[str]], model_dir: Path, number: signal.Signals
) -> None:
    process = spawn("serve", "--model", model_dir, "--port", 0, "--served-model-name", "a", "b", "deepseek-7b")
    lines = lines_until(process, "ready: ")
    # One row a fact: nothing is wrapped at 80 columns, for logs are searched by line.
    assert lines[0].startswith("model") and lines[0].endswith(f"a, b, deepseek-7b  (deepseek_v3, {model_dir})")
    rows = ["weights", "kernels", "KV cache", "memory", "context", "together", "speculation", "identity", "database"]
    assert [line.split("  ")[0] for line in lines[1:-1]] == rows
    url = lines[-1].split()[1]
    names = [model["id"] for model in httpx.get(f"{url}/v1/models", timeout=30).json()["data"]]
    assert names == ["a", "b", "deepseek-7b"]
    body = {"model": "deepseek-7b", "prompt": "Hello", "max_tokens": 3}
    assert httpx.post(f"{url}/v1/generate", json=body, timeout=30).json()["usage"]["completion_tokens"] <= 3
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in rest


def test_a_port_in_use_is_one_line_before_the_model_is_loaded(refused: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused("serve", "--model", "no-such-model", "--port", port)


def test_an_unknown_model_is_one_line(refused: Callable[..., str]) -> None:
    assert "no such model" in refused("serve", "--model", "no-such-model", "--port", "0")


def test_options_and_an_adapter_show_in_the_table_and_in_the_answers(
    spawn: Callable[..., subprocess.Popen[str]], model_dir: Path, adapter_dir: Path
) -> None:
    process = spawn(
        *("serve", "--model", model_dir, "--port", 0, "--served-model-name", "base"),
        *("--adapter", f"poet={adapter_dir}", "--kv-bytes", 1 << 20, "--max-sequences", 3, "--max-waiting", 5),
        *("--no-prefix-cache", "--speculation", "ngram", "--draft-tokens", 2),
    )
    lines = lines_until(process, "ready: ")
    table = dict(line.split("  ", 1) for line in lines[:-1])
    shown = {name.strip(): value.strip() for name, value in table.items()}
    assert shown["adapters"] == f"poet ({adapter_dir})"
    assert "no prefixes kept" in shown["KV cache"] and "bytes a token" in shown["KV cache"]
    tokens, each = int(shown["KV cache"].split()[0]), int(shown["KV cache"].split(" bytes a token")[0].split()[-1])
    assert (1 << 20) - 16 * each < tokens * each <= 1 << 20
    assert shown["together"].startswith("3 sequences, ") and "5 requests waiting" in shown["together"]
    assert shown["speculation"] == "ngram: at most 2 tokens a step, from n-grams of what came before"
    assert "threads" in shown["kernels"] and "free before" in shown["memory"]
    url = lines[-1].split()[1]
    cards = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [("base", None), ("poet", "base")]
    answers = []
    for name in ("base", "poet"):
        body = {"model": name, "prompt": "Hello", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        answers.append(httpx.post(f"{url}/v1/generate", json=body, timeout=60).json()["text"])
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--adapter", "poet"), "--adapter: not an adapter; found 'poet'; expected name=path"),
        (("--adapter", "=x"), "--adapter: not an adapter"),
        (("--adapter", "a=x", "--adapter", "a=y"), "--adapter: this name is taken; found 'a'"),
        (("--adapter", "m=x", "--served-model-name", "m"), "--adapter: this name is taken; found 'm'"),
        (("--adapter", "a=no-such-directory"), "no-such-directory: is not a PEFT adapter"),
        (("--kv-bytes", 100_000, "--kv-fraction", 0.1), "give kv_bytes or kv_fraction; found both"),
        (("--kv-fraction", 1.5), "kv_fraction: out of range; found 1.5"),
        (("--kv-fraction", "nan"), "kv_fraction: out of range; found nan"),
        (("--kv-bytes", 10), "kv_bytes: holds not one block"),
        (("--speculation", "magic"), "Invalid value for '--speculation'"),
        (("--draft-tokens", 65), "Invalid value for '--draft-tokens'"),
        (("--max-waiting", 0), "Invalid value for '--max-waiting'"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(
    refused: Callable[..., str], model_dir: Path, args: tuple[object, ...], expected: str
) -> None:
    assert expected in refused("serve", "--model", model_dir, "--port", 0, *args)


def test_budgets_in_money_and_a_model_without_a_price_are_one_line_before_it_is_loaded(
    refused: Callable[..., str], model_dir: Path, tmp_path: Path
) -> None:
    config = tmp_path / "platform.yaml"
    config.write_text(
        f"database: {tmp_path}/control.db\nprices: {{other: {{input: 1, output: 1}}}}\n"
        "budgets: [{scope: tenant, period: month, money: 5}]\n"
    )
    said = refused("serve", "--model", model_dir, "--port", 0, "--served-model-name", "mine", "--config", config)
    assert "budgets in money are configured" in said and "add mine: {input: " in said
