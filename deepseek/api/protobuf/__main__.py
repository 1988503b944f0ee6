"""Give new fields numbers, and write register.json and deepseek.proto anew."""

from __future__ import annotations

from deepseek.api.protobuf.contract import MODELS, PROTO_FILE, SERVICE
from deepseek.api.protobuf.register import extended, read_register, write_register
from deepseek.api.protobuf.schema import messages_of
from deepseek.api.protobuf.writing import proto_text


def main() -> None:
    """Raises ConfigError, and writes nothing, where a published field's type changed."""
    messages = messages_of(MODELS)
    register = extended(read_register(), messages)
    write_register(register)
    PROTO_FILE.write_text(proto_text(messages, (SERVICE,), register))


if __name__ == "__main__":
    main()
