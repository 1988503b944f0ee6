"""`deepseek serve --grpc-port`: the same model answers in gRPC, and both servers end with one signal."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc

from deepseek.api.dialects.generate import GenerateRequest, GenerateResponse
from deepseek.api.protobuf.contract import codec_of


def test_it_serves_grpc_beside_http_and_ends_cleanly(
    spawn: Callable[..., subprocess.Popen[str]], model_dir: Path, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = tmp_path / "control.db"
    process = spawn(
        "serve",
        "--model",
        model_dir,
        "--port",
        0,
        "--grpc-port",
        port,
        "--served-model-name",
        "a",
        "--database",
        database,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("ready: "):
            break
    assert any(line.startswith("gRPC") and f"127.0.0.1, port {port}, no TLS" in line for line in lines), lines
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        generate = channel.unary_unary("/deepseek.v1.DeepSeek/Generate")
        request = codec_of(GenerateRequest).encode(
            {"model": "a", "prompt": "Hello", "max_tokens": 3, "ignore_eos": True}
        )
        answer = codec_of(GenerateResponse).decode(generate(request, timeout=30))
    assert answer["usage"]["completion_tokens"] == 3
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in rest


def test_a_network_without_tls_is_one_line_before_the_model_is_loaded(refused: Callable[..., str]) -> None:
    line = refused("serve", "--model", "no-such-model", "--host", "0.0.0.0", "--port", 0, "--grpc-port", 0)
    assert "in the clear" in line


def test_a_grpc_port_in_use_is_one_line_before_the_model_is_loaded(refused: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused("serve", "--model", "no-such-model", "--port", 0, "--grpc-port", port)
