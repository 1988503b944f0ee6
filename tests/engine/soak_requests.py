"""A random schedule of requests for the soak: everything a client may ask for, and everything it may do wrong.

The schedule is a function of its seed alone. When things happen beside each other is the machine's to say.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from deepseek.core.constraint import Constraint
from deepseek.core.engine import Request
from deepseek.core.errors import AdmissionError
from deepseek.core.sampling import SamplingParams

Reader = Literal["read", "slow", "aclose", "cancel", "drop", "abort"]
Fault = Literal["text", "history", "draw", "compute", "grammar", "adapter"]

MAX_LENGTH = 160
FAULT_STOP = "\x00fault "  # carries the kind of fault to where it is to happen; no text ever contains it
DRAW_SEED, COMPUTE_SEED = 2**40 + 1, 2**40 + 2
ADAPTERS = ("one", "two")
CHANGING_ADAPTER, NAN_ADAPTER = "changing", "nan"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name"],
    "additionalProperties": False,
}
VALID = (
    Constraint.choice(["yes", "no", "perhaps"]),
    Constraint.choice([f"number {n}" for n in range(40)]),
    Constraint.regex(r"[a-z]{3,9}-[0-9]{2}"),
    Constraint.regex(r"(ab|cd)+e?"),
    Constraint.json_schema(SCHEMA),
    Constraint.json_schema({"enum": [1, "two", None, [3]]}),
    Constraint.json_schema({"type": "array", "items": {"type": "boolean"}, "maxItems": 4}),
    Constraint.json_object(),
    Constraint.lark('start: "a" rest\nrest: "b" rest | "c"'),
)
MALFORMED = (
    Constraint.regex("(unclosed"),
    Constraint.regex("a{5000}{5000}"),
    Constraint.regex(r"(?=lookahead)x"),
    Constraint.lark("start: missing"),
    Constraint.lark("nonsense ::= %%"),
    Constraint.json_schema({"type": "nothing"}),
    Constraint.json_schema({"$ref": "#/nowhere"}),
    Constraint.json_schema({"type": "object", "unevaluatedProperties": {"not": {}}, "dependentSchemas": 5}),
    Constraint.json_schema({"type": "string", "pattern": "(["}),
    Constraint.json_schema(False),
)


@dataclass(frozen=True, slots=True)
class Spec:
    """One request, what its client does, and what is done to it.

    at: events read before leaving; delay_s: before aborting or between a slow reader's events. gap_s: until the next
    request. expires_s: deadline, counted from sending. is_bad: must be refused.
    """

    index: int
    request: Request
    reader: Reader
    at: int
    delay_s: float
    gap_s: float
    expires_s: float | None
    fault: Fault | None
    is_bad: bool

    @property
    def leaves(self) -> bool:
        return self.reader in ("aclose", "cancel", "drop", "abort")


def bombs(seed: int) -> Constraint:
    """Small to write, large to compile; each a little different, so that none is remembered."""
    rng = random.Random(seed)
    kind, size = rng.randrange(3), rng.randint(40, 60)
    if kind == 0:
        return Constraint.regex("(" * size + "a" + "{1,90})" * size)
    if kind == 1:
        return Constraint.json_schema({"allOf": [{"anyOf": [{"maxLength": n}, {"minLength": n}]} for n in range(size)]})
    nested: Any = {"type": "string"}
    for n in range(size * 4):
        nested = {"type": "object", "properties": {f"p{n}": nested}, "required": [f"p{n}"]}
    return Constraint.json_schema(nested)


def schedule(seed: int, count: int, vocabulary: int) -> Iterator[Spec]:
    """The requests in order of arrival. Every one is drawn from a generator of its own: (seed, index)."""
    for index in range(count):
        yield spec_of(seed, index, vocabulary)


def spec_of(seed: int, index: int, vocabulary: int) -> Spec:
    return _spec(random.Random(f"{seed} {index}"), index, _prefixes(seed, vocabulary), vocabulary)


@cache
def _prefixes(seed: int, vocabulary: int) -> list[tuple[int, ...]]:
    """What many prompts begin with."""
    rng = random.Random(f"{seed} prefixes")
    return [tuple(rng.randrange(4, vocabulary) for _ in range(rng.randint(8, 64))) for _ in range(6)]


def _spec(rng: random.Random, index: int, prefixes: list[tuple[int, ...]], vocabulary: int) -> Spec:
    def some(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(4, vocabulary) for _ in range(rng.randint(1, most)))

    prompt = rng.choice(prefixes) + some(30) if rng.random() < 0.5 else some(90)
    fields = _sampling(rng, vocabulary)
    rest: dict[str, Any] = {
        "tenant": rng.choice(["local", "local", "blue", "red", f"tenant {index}"]),
        "cache_salt": rng.choice(["", "", "", "pepper"]),
        "priority": rng.choice([0, 0, 0, -2, 1, 3]),
    }
    fault: Fault | None = None
    is_bad = False
    dice = rng.random()
    if dice < 0.12:
        rest["constraint"] = rng.choice(VALID)
    elif dice < 0.15:
        rest["constraint"], is_bad = rng.choice(MALFORMED), True
    elif dice < 0.152:
        rest["constraint"] = bombs(index)
    elif dice < 0.24:
        rest["adapter"] = rng.choice([*ADAPTERS, *ADAPTERS, CHANGING_ADAPTER])
    elif dice < 0.28:
        fault = rng.choice(["text", "history", "draw", "compute", "grammar", "adapter"])
        _break(fault, fields, rest)
    elif dice < 0.33:
        rest |= {"task": "embed", "pooling": rng.choice(["last", "mean"])}
    elif dice < 0.35:
        prompt, is_bad = (5,) * (MAX_LENGTH + rng.randint(1, 90)), True
    elif dice < 0.36:
        prompt, is_bad = (*prompt, rng.choice([-1, vocabulary, 2**31])), True
    elif dice < 0.365:
        rest["adapter"], is_bad = "nobody's", True
    if "constraint" in rest:  # bans and a grammar may leave nothing; a stop string may cut a text that must match
        fields |= {"logit_bias": {}, "bad_words": (), "bad_word_ids": (), "min_tokens": 0, "stop_token_ids": ()}
        fields["stop"] = tuple(text for text in fields["stop"] if text.startswith(FAULT_STOP))
    reader: Reader = rng.choices(["read", "slow", "aclose", "cancel", "drop", "abort"], weights=[70, 8, 5, 5, 5, 7])[0]  # type: ignore[assignment]
    return Spec(
        index,
        Request(f"r{index}", prompt, SamplingParams(**fields), **rest),
        reader,
        at=rng.randint(0, 6),
        delay_s=rng.choice([0.0, 0.001, 0.01]) if reader == "slow" else rng.random() * 0.1,
        gap_s=rng.choice([0.0] * 12 + [0.002, 0.03]),
        expires_s=rng.choice([-0.01, 0.02, 0.1, 0.5]) if rng.random() < 0.06 else None,
        fault=fault,
        is_bad=is_bad,
    )


def _sampling(rng: random.Random, vocabulary: int) -> dict[str, Any]:
    most = rng.choice([1, 4, 8, 12, 24])
    fields: dict[str, Any] = {
        "max_tokens": most,
        "temperature": rng.choice([0.0, 0.0, 0.7, 1.0, 1.6]),
        "seed": rng.randrange(2**32),
        "n": rng.choice([1, 1, 1, 1, 2, 3]),
        "stop": (),
        "stop_token_ids": (),
    }
    options: list[dict[str, Any]] = [
        {"top_p": rng.uniform(0.1, 1.0)},
        {"top_k": rng.choice([1, 5, 50])},
        {"min_p": 0.05},
        {"frequency_penalty": rng.uniform(-1, 2)},
        {"presence_penalty": 0.6},
        {"repetition_penalty": 1.2},
        # Says the same again and again: guesses are right then.
        {"logit_bias": {rng.randrange(4, vocabulary): 30.0}},
        {"logit_bias": {rng.randrange(4, vocabulary): float("-inf")}},
        {"bad_words": ("the", "数据")},
        {"bad_word_ids": ((7,), (9, 10))},
        {"stop": (rng.choice("aeiou "),)},
        {"stop_token_ids": tuple(rng.randrange(4, vocabulary) for _ in range(40))},
        {"min_tokens": rng.randint(0, most)},
        {"logprobs": rng.choice([0, 3])},
        {"prompt_logprobs": rng.choice([0, 2])},
        {"ignore_eos": True},
    ]
    for option in rng.sample(options, rng.choice([0, 1, 2, 4])):
        fields |= option
    if "prompt_logprobs" in fields and rng.random() < 0.2:
        fields |= {"max_tokens": 0, "min_tokens": 0, "n": 1}
    return fields


def _break(fault: Fault, fields: dict[str, Any], rest: dict[str, Any]) -> None:
    fields |= {"max_tokens": 12, "ignore_eos": True, "min_tokens": 0}
    fields.pop("prompt_logprobs", None)
    if fault in ("text", "history"):
        fields["stop"] = (FAULT_STOP + fault,)
        fields["frequency_penalty"] = 0.5
    elif fault == "grammar":
        fields["stop"] = (FAULT_STOP + fault,)
        rest["constraint"] = Constraint.regex(r"fault[a-z]{20,30}")
    elif fault == "draw":
        fields |= {"seed": DRAW_SEED, "temperature": 1.0}
    elif fault == "compute":
        fields["seed"] = COMPUTE_SEED
    else:
        rest["adapter"] = NAN_ADAPTER


def hostile(rng: random.Random) -> dict[str, Any]:
    """Fields that a Request refuses, drawn by who may send anything."""
    choices: list[dict[str, Any]] = [
        {"deadline": float("nan")},
        {"priority": 10**400},
        {"prompt_ids": (1.5,)},
        {"tenant": None},
        {"sampling": {"temperature": float("inf")}},
        {"sampling": {"n": 10**9}},
        {"sampling": {"stop": ("",)}},
        {"sampling": {"logit_bias": {-5: 1.0}}},
    ]
    return rng.choice(choices)


def is_refused(fields: dict[str, Any]) -> bool:
    try:
        given = {"id": "h", "prompt_ids": (1,)} | fields
        if "sampling" in given:
            given["sampling"] = SamplingParams(**given["sampling"])
        Request(**given)
    except AdmissionError:
        return True
    return False


def matches(constraint: Constraint, text: str) -> bool:
    """Whether a finished text is what the constraint asks for."""
    import re

    import jsonschema

    if constraint.kind == "choice":
        return text in constraint.choices
    if constraint.kind == "regex":
        return re.fullmatch(constraint.source, text) is not None
    if constraint.kind == "lark":
        return re.fullmatch("ab*c", text) is not None
    try:
        value = json.loads(text)
        if constraint.kind == "json_schema":
            jsonschema.validate(value, json.loads(constraint.source))
    except (ValueError, jsonschema.ValidationError):
        return False
    return constraint.kind == "json_schema" or isinstance(value, dict)
