"""`deepseek serve`'s application on an engine that costs nothing, in a process of its own: what benchmarks/api.py asks.

    python fake_server.py --port N [--grpc-port N] --config FILE --gap-s SECONDS

Everything that a server for many has is on: the database, keys, limits, leases, metering, metrics.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence

from deepseek.api import ApiSettings, ServerState
from deepseek.api.config import load
from deepseek.api.grpc.config import GrpcConfig
from deepseek.api.platform import open_platform
from deepseek.api.server import serve
from deepseek.chat.parsing import PlainParser, StreamParser
from deepseek.core.constraint import Constraint
from deepseek.core.messages import Message, ToolChoice, ToolSpec
from deepseek.engine.fake import FakeEngine

CONTEXT = 1 << 20
MODEL = "deepseek-fake"


class ByteCodec:
    """One token a byte."""

    thinks = False

    def thinking_end(self) -> int | None:
        return None

    def encode_prompt(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, thinking: bool = False
    ) -> list[int]:
        return list("".join(message.text for message in messages).encode())

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def parser(self, tools: bool, thinking: bool) -> StreamParser:
        return PlainParser()

    def tool_constraint(
        self, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        return None

    def answer_constraint(
        self, text: Constraint, tools: Sequence[ToolSpec], choice: ToolChoice, parallel: bool, *, thinking: bool = False
    ) -> Constraint | None:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int)
    parser.add_argument("--config", required=True)
    parser.add_argument("--gap-s", type=float, required=True)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # drained, it ends like a program and not like a victim
    platform = open_platform(load(given.config), host="127.0.0.1", require_keys=True, where=given.config)
    try:
        engine = FakeEngine(
            ttft_s=0.0,
            inter_token_s=given.gap_s,
            max_model_len=CONTEXT,
            max_running=4096,
            max_waiting=8192,
            num_blocks=1 << 22,
        )
        state = ServerState(engine, ByteCodec(), (MODEL,), CONTEXT, ApiSettings(), **platform.state_fields())
        grpc = None if given.grpc_port is None else GrpcConfig(port=given.grpc_port)
        serve(state, port=given.port, grace_s=1.0, grpc=grpc, on_ready=lambda url: print(url, flush=True))
    finally:
        platform.close()


if __name__ == "__main__":
    main()
