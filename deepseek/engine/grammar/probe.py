"""A process of its own in which constraints are rewritten and compiled for the first time.

Some inputs make the compiler overflow its stack (which ends the process), take gigabytes, or not come back; none of
that can be stopped within a process. So each constraint is tried here first, in a process that the engine can kill,
with a limit on memory and half the stack of the thread that compiles it in the engine. What compiles here compiles there.

Run as `python -m deepseek.engine.grammar.probe FD`. FD is one end of a socket pair; messages are JSON, nothing is
pickled: first {"tokens": [base64], "eos_ids", "memory_bytes"}, then one {"kind", "source"} after the other, each answered by
{"grammar": source for llguidance} or {"refused": fields of an AdmissionError}. The process ends when the other end closes.
"""

from __future__ import annotations

import base64
import json
import resource
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

import llguidance

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError
from deepseek.engine.grammar.limits import PROBE_STACK_BYTES, SLOWEST_MASK_S, build, slowest_mask_s
from deepseek.engine.grammar.matcher import GrammarError
from deepseek.engine.grammar.source import grammar_source
from deepseek.engine.grammar.vocabulary import grammar_vocabulary


def main() -> None:
    """Answer until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which closes the connection
    threading.stack_size(PROBE_STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(Connection(int(sys.argv[1])),))
    thread.start()
    thread.join()


def _serve(connection: Connection) -> None:
    first = json.loads(connection.recv_bytes())
    vocabulary = grammar_vocabulary([base64.b64decode(token) for token in first["tokens"]], first["eos_ids"])
    _limit_memory(first["memory_bytes"])
    connection.send_bytes(b"{}")
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(json.dumps(_answer(vocabulary, message)).encode())


def _answer(vocabulary: llguidance.LLTokenizer, message: dict[str, str]) -> dict[str, Any]:
    try:
        constraint = Constraint(message["kind"], message["source"])  # type: ignore[arg-type]  # it checks
        source = grammar_source(constraint)
        slowest = slowest_mask_s(build(vocabulary, source))
        if slowest > SLOWEST_MASK_S:
            raise AdmissionError(
                "takes too long at each token",
                where=f"constraint {constraint.kind}",
                found=f"{slowest:.1f} s",
                expected=f"at most {SLOWEST_MASK_S} s",
                fix="make it simpler",
            )
    except AdmissionError as error:
        return {"refused": _fields(error)}
    except GrammarError as error:
        return {
            "refused": {"what": "cannot be compiled", "where": f"constraint {message['kind']}", "found": error.found}
        }
    except (RecursionError, MemoryError) as error:
        return {
            "refused": {"what": "too large", "where": f"constraint {message['kind']}", "found": type(error).__name__}
        }
    except Exception as error:
        traceback.print_exc()  # a defect of ours, and no reason to leave the next one without an answer
        found = f"{type(error).__name__}: {error}"
        return {
            "refused": {"what": "the compiler failed", "where": f"constraint {message['kind']}", "found": found[:300]}
        }
    return {"grammar": source}


def _fields(error: AdmissionError) -> dict[str, Any]:
    names = ("what", "where", "found", "expected", "fix")
    return {name: getattr(error, name) for name in names if getattr(error, name) is not None}


def _limit_memory(extra_bytes: int) -> None:
    """Let the process take so much more than it has. Only Linux says how much that is, and holds to a limit."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm") as statistics:
        pages = int(statistics.read().split()[0])
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
