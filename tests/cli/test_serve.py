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
    assert [line.split("  ")[0] for line in lines[1:-1]] == ["context", "KV cache", "together"]
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
