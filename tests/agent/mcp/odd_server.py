"""A server that speaks by hand, so that it can speak badly: `odd_server.py KIND`.

It greets as servers before 2026 do. `legacy`: tells of a changed list unasked. `many`: lists the same page for ever.
`schemas`: lists tools that cannot be used. `list`: lists
what is no list of tools. `flood`: answers a call with an endless line. `noise`: prints what is no message.
`silent`: never answers. `wrong`: answers a call with what is no result. `stubborn`: does not end when it is told to.
"""

import json
import os
import signal
import sys
from typing import Any

kind = sys.argv[1]
tools = [{"name": "first", "description": "One.", "inputSchema": {"type": "object"}}]


def say(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        return {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {"listChanged": True}},
            "serverInfo": {"name": "odd", "version": "0"},
        }
    if method == "tools/list":
        if kind == "schemas":
            bad: list[dict[str, Any]] = [
                {"name": "no-schema", "inputSchema": {"type": "object", "properties": {"a": {"type": "nonsense"}}}},
                {"name": "x" * 200, "inputSchema": {"type": "object"}},
                tools[0],
            ]
            return {"tools": [*tools, *bad]}
        if kind == "list":
            return {"tools": [{"name": "no-object", "inputSchema": {"type": "array"}}]}
        return {"tools": tools, **({"nextCursor": "again"} if kind == "many" else {})}
    if method == "tools/call":
        if kind == "legacy" and params["name"] == "first":
            tools.append({"name": "second", "description": "Two.", "inputSchema": {"type": "object"}})
            say({"method": "notifications/tools/list_changed"})
        return {"content": 3} if kind == "wrong" else {"content": [{"type": "text", "text": "done"}]}
    return {}


if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "noise":
    print("Starting up...", flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or kind == "silent":
        continue
    if message["method"] == "server/discover":
        say({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
        continue
    if kind == "flood" and message["method"] == "tools/call":
        while True:
            sys.stdout.write("x" * 65536)
    if kind == "noise":
        print("working...", flush=True)
    say({"id": message["id"], "result": answer(message["method"], message.get("params", {}))})
while kind == "stubborn":
    os.read(0, 1) or signal.pause()
