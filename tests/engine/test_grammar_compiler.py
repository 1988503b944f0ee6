import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from grammar_support import allowed, builtin_tokenizer

from deepseek.core.constraint import Constraint
from deepseek.core.errors import AdmissionError, ConfigError, EngineError
from deepseek.engine.grammar import compiler as grammar_compiler
from deepseek.engine.grammar.compiler import GrammarCompiler

DEADLINE_S = 20.0  # far from what any of these takes, however busy the machine
PADDING = 37


def new_compiler(**options: Any) -> GrammarCompiler:
    tokenizer = builtin_tokenizer()
    options = {"deadline_s": DEADLINE_S} | options
    return GrammarCompiler(tokenizer, tokenizer.vocab_size + PADDING, tokenizer.eos_ids, **options)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = new_compiler()
    yield compiler
    compiler.close()


def test_a_grammar_is_compiled_for_the_model_s_vocabulary(compiler: GrammarCompiler) -> None:
    tokenizer = builtin_tokenizer()
    grammar = compiler.compile(Constraint.choice(["yes", "no"]))
    matcher = grammar.matcher()
    assert matcher.masks([]).shape == (1, (tokenizer.vocab_size + PADDING + 31) // 32)
    while not matcher.done:
        matcher.accept(allowed(matcher.masks([])[0])[0])
    assert allowed(matcher.masks([])[0]) == list(tokenizer.eos_ids)


def test_every_kind_compiles(compiler: GrammarCompiler) -> None:
    for constraint in (
        Constraint.json_schema({"type": "null"}),
        Constraint.json_object(),
        Constraint.regex("[a-z]+"),
        Constraint.choice(["a"]),
        Constraint.lark('start: "a" b\nb: "b"* | %json {"type": "integer"}'),
    ):
        assert allowed(compiler.compile(constraint).matcher().masks([])[0])


def test_what_was_compiled_before_is_kept(compiler: GrammarCompiler) -> None:
    constraint = Constraint.regex("kept{3}")
    assert compiler.compile(constraint) is compiler.compile(Constraint.regex("kept{3}"))


def test_only_so_much_is_kept() -> None:
    compiler = new_compiler(cache_bytes=1)
    first, second = Constraint.regex("first"), Constraint.regex("second")
    kept = compiler.compile(first)
    compiler.compile(second)
    assert compiler.compile(first) is not kept
    compiler.close()


BOMBS = {
    "references without end": Constraint.json_schema({"$ref": "#"}),
    "a chain of references": Constraint.json_schema(
        {
            "$ref": "#/$defs/0",
            "$defs": {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(2000)} | {"2000": {}},
        }
    ),
    "deep nesting": Constraint.json_schema('{"items":' * 150 + "{}" + "}" * 150),
    "a product of alternatives": Constraint.json_schema(
        {"allOf": [{"anyOf": [{"required": [f"{n}{m}"], "type": "object"} for m in range(3)]} for n in range(12)]}
    ),
    "overlapping patterns": Constraint.json_schema(
        {"allOf": [{"type": "string", "pattern": f"{c}.{{15}}$"} for c in "abcdefgh"]}
    ),
    "deeply nested groups": Constraint.regex("(?:" * 5000 + "a" + ")" * 5000),
    "more alternatives than a row holds": Constraint.lark(
        "start: " + " | ".join(f'"w{n}" a' for n in range(4000)) + '\na: "a"'
    ),
    "a rule of nothing but itself": Constraint.lark("start: start"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_ends_in_an_error_and_harms_nobody(compiler: GrammarCompiler, bomb: str) -> None:
    with pytest.raises(AdmissionError):
        compiler.compile(BOMBS[bomb])
    assert compiler.compile(Constraint.choice(["still here"]))


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = new_compiler()
    compiler.compile(Constraint.choice(["warm"]))
    monkeypatch.setattr(compiler, "_deadline_s", 0.0)
    with pytest.raises(AdmissionError, match="too long to compile"):
        compiler.compile(Constraint.json_object())
    monkeypatch.setattr(compiler, "_deadline_s", DEADLINE_S)
    assert compiler.compile(Constraint.choice(["another"]))
    compiler.close()


def test_a_process_that_dies_is_replaced(compiler: GrammarCompiler) -> None:
    compiler.compile(Constraint.regex("before"))
    compiler._probes[-1]._process.kill()
    compiler._probes[-1]._process.wait()
    assert compiler.compile(Constraint.regex("after"))


def test_what_takes_too_much_memory_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_compiler, "PROBE_MEMORY_BYTES", 32 << 20)
    compiler = new_compiler()
    doubled = "".join(f"{chr(n)}: {chr(n + 1)} {chr(n + 1)}\n" for n in range(66, 88))
    with pytest.raises(AdmissionError, match="too complex to compile"):
        compiler.compile(Constraint.lark(f'start: B\n{doubled}X: "x"\n'))
    monkeypatch.undo()
    assert compiler.compile(Constraint.choice(["still here"]))
    compiler.close()


def test_a_process_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = new_compiler()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(EngineError, match="does not start"):
        compiler.compile(Constraint.choice(["a"]))
    monkeypatch.undo()
    assert compiler.compile(Constraint.choice(["a"]))
    compiler.close()


def test_a_full_queue_refuses_and_says_so() -> None:
    compiler = new_compiler(max_queue=1)
    entered, leave = threading.Event(), threading.Event()

    def hold(constraint: Constraint) -> Any:
        entered.set()
        leave.wait()
        return "a grammar"

    compiler._compile = hold  # type: ignore[method-assign]

    async def scenario() -> None:
        first = asyncio.ensure_future(compiler.compile_async(Constraint.regex("1")))
        await asyncio.to_thread(entered.wait)
        second = asyncio.ensure_future(compiler.compile_async(Constraint.regex("2")))
        same = asyncio.ensure_future(compiler.compile_async(Constraint.regex("2")))
        await asyncio.sleep(0)
        with pytest.raises(AdmissionError) as caught:
            await compiler.compile_async(Constraint.regex("3"))
        assert caught.value.reason == "queue_full"
        leave.set()
        await asyncio.gather(first, second, same)

    asyncio.run(scenario())
    compiler.close()


def test_giving_up_waiting_does_not_stop_the_others() -> None:
    compiler = new_compiler()
    entered, leave = threading.Event(), threading.Event()

    def hold(constraint: Constraint) -> Any:
        entered.set()
        leave.wait()
        return "a grammar"

    compiler._compile = hold  # type: ignore[method-assign]

    async def scenario() -> None:
        patient = asyncio.ensure_future(compiler.compile_async(Constraint.regex("1")))
        hasty = asyncio.ensure_future(compiler.compile_async(Constraint.regex("1")))
        await asyncio.to_thread(entered.wait)
        hasty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hasty
        leave.set()
        assert await patient == "a grammar"

    asyncio.run(scenario())
    compiler.close()


def test_once_closed_it_refuses_and_its_processes_are_gone() -> None:
    compiler = new_compiler()
    compiler.compile(Constraint.choice(["a"]))
    (probe,) = compiler._probes
    compiler.close()
    compiler.close()
    assert not probe.alive
    with pytest.raises(EngineError, match="closed"):
        compiler.compile(Constraint.choice(["a"]))


def test_a_model_without_an_end_token_cannot_be_constrained() -> None:
    compiler = GrammarCompiler(builtin_tokenizer(), 5000, ())
    with pytest.raises(ConfigError, match="ends the sequence"):
        compiler.compile(Constraint.choice(["a"]))
    compiler.close()


@pytest.mark.parametrize(
    ("grammar", "named"),
    [
        ("start: <｜User｜>", "token"),
        ("start: <[0-100]>", "token"),
        ('start: "a" %json {"uniqueItems": true}', "uniqueItems"),
        ("start: %json 5x", "%json"),
        ('begin: "a"', "start"),
        ("start: /(?=a)b/", "look-around"),
        ("start: missing", "missing"),
    ],
)
def test_what_a_lark_grammar_may_not_do_is_named(compiler: GrammarCompiler, grammar: str, named: str) -> None:
    with pytest.raises(AdmissionError, match=named):
        compiler.compile(Constraint.lark(grammar))


def test_what_looks_like_a_token_in_a_string_is_text(compiler: GrammarCompiler) -> None:
    assert compiler.compile(Constraint.lark('// <a comment>\nstart: "<｜User｜>" /<b>/'))


def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    compiler = new_compiler()
    entered, leave = threading.Event(), threading.Event()
    begun: list[str] = []

    def hold(constraint: Constraint) -> Any:
        begun.append(constraint.source)
        entered.set()
        leave.wait()
        return "a grammar"

    compiler._compile = hold  # type: ignore[method-assign]

    async def scenario() -> None:
        first = asyncio.ensure_future(compiler.compile_async(Constraint.regex("1")))
        await asyncio.to_thread(entered.wait)
        left = asyncio.ensure_future(compiler.compile_async(Constraint.regex("2")))
        last = asyncio.ensure_future(compiler.compile_async(Constraint.regex("3")))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        leave.set()
        await asyncio.gather(first, last)

    asyncio.run(scenario())
    assert len(begun) == 2
    compiler.close()


def test_a_refusal_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = new_compiler()
    refused = 0

    def refuse(constraint: Constraint) -> Any:
        nonlocal refused
        refused += 1
        raise AdmissionError("cannot be compiled", where="constraint regex", found="this")

    compiler._compile = refuse  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(AdmissionError, match="constraint regex: cannot be compiled; found this"):
            compiler.compile(Constraint.regex("1"))
    assert refused == 1
    now = grammar_compiler.time.monotonic()
    monkeypatch.setattr(grammar_compiler.time, "monotonic", lambda: now + 3600)
    with pytest.raises(AdmissionError):
        compiler.compile(Constraint.regex("1"))
    assert refused == 2
    compiler.close()
