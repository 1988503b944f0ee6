"""Rules as they are configured, and what they make of a text.

A rule that refuses is looked for apart from those that mask, so that nothing that is to be refused goes by under a mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepseek.core.errors import ConfigError
from deepseek.plugins.moderation.pattern import Pattern, of_regex, of_term
from deepseek.plugins.moderation.scanner import Automaton, Match, Scanner

Place = Literal["prompt", "answer"]
Action = Literal["refuse", "mask", "note"]
Kind = Literal["email", "phone", "identity_card", "bank_card", "secret_key"]

KINDS: dict[Kind, tuple[str, ...]] = {
    "email": (r"\b[a-z0-9][a-z0-9._%+-]{0,63}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,5}\.[a-z]{2,24}\b",),
    "phone": (r"\b1[3-9]\d[ -]?\d{4}[ -]?\d{4}\b", r"\+\d{1,3}[ -]?(?:\(?\d{1,4}\)?[ -]?){2,5}\d{2,4}\b"),
    "identity_card": (r"\b[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dx]\b",),
    "bank_card": (r"\b\d{4}(?:[ -]?\d{4}){2}[ -]?\d{3,4}(?:[ -]?\d{1,3})?\b",),
    "secret_key": (
        r"\b(?:sk|pk|rk|ghp|gho|glpat|xox[abp])[-_][a-z0-9_-]{16,200}\b",
        r"\bAKIA[0-9A-Z]{16}\b",
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
    ),
}
MAX_RULES = 256
MAX_TERMS = 100_000
MAX_NOTES = 100
"""Of one request."""

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Rule(BaseModel):
    """terms: words. terms_file: more of them, one a line. patterns: regular expressions. kinds: what is known by name.
    on: prompts, answers or both. mask: put instead. message: what a refusal says."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(min_length=1, max_length=100)]
    terms: list[Text] = []
    terms_file: str | None = None
    patterns: list[Text] = []
    kinds: list[Kind] = []
    action: Action = "refuse"
    on: Annotated[list[Place], Field(min_length=1)] = ["prompt", "answer"]
    mask: Annotated[str, Field(max_length=100)] = "***"
    message: Annotated[str, Field(min_length=1, max_length=1000)] | None = None


@dataclass(slots=True)
class Found:
    """What became of a piece of text. refused: the rule that does not let it pass. noted: names of rules."""

    text: str = ""
    refused: Rule | None = None
    noted: list[str] = field(default_factory=list)


class _Group:
    """Rules of one action, as one automaton."""

    def __init__(self, rules: Sequence[Rule], patterns: dict[str, list[Pattern]]) -> None:
        pairs = [(rule, pattern) for rule in rules for pattern in patterns[rule.name]]
        self._rules = [rule for rule, _ in pairs]
        self.automaton = Automaton([pattern for _, pattern in pairs])

    def rule(self, match: Match) -> Rule:
        return self._rules[match.rule]


class RuleBook:
    """The rules, made ready. Raises ConfigError."""

    def __init__(self, given: Any) -> None:
        rules = _read(given)
        patterns = {rule.name: list(_patterns(rule)) for rule in rules}
        self._groups = {
            (place, action): _Group([rule for rule in rules if rule.action == action and place in rule.on], patterns)
            for place in ("prompt", "answer")
            for action in ("refuse", "mask", "note")
        }

    def has(self, place: Place) -> bool:
        """Whether any rule is of this place."""
        return any(group.automaton for (where, _), group in self._groups.items() if where == place)

    def reading(self, place: Place) -> Reading:
        """For one text that comes in pieces."""
        refuse, mask, note = (self._groups[place, action] for action in ("refuse", "mask", "note"))
        return Reading(refuse, mask, note)


class Reading:
    """One text that is held to the rules."""

    def __init__(self, refuse: _Group, mask: _Group, note: _Group) -> None:
        self._refuse, self._mask, self._note = refuse, mask, note
        self._refusing, self._masking, self._noting = (Scanner(group.automaton) for group in (refuse, mask, note))
        self._ended: Rule | None = None

    def feed(self, text: str, *, last: bool = False) -> Found:
        """What to say of it by now. Raises ToolError where the text takes too long."""
        found = Found(refused=self._ended)
        if found.refused is not None:
            return found
        for piece in self._noting.feed(text, last=last):
            if isinstance(piece, Match):
                found.noted.append(self._note.rule(piece).name)
        passed = ""
        for piece in self._refusing.feed(text, last=last):
            if isinstance(piece, Match):
                self._ended = found.refused = self._refuse.rule(piece)
                return found
            passed += piece
        for piece in self._masking.feed(passed, last=last):
            found.text += self._mask.rule(piece).mask if isinstance(piece, Match) else piece
        return found


def _read(given: Any) -> list[Rule]:
    if not isinstance(given, list) or not 0 < len(given) <= MAX_RULES:
        raise ConfigError("has a wrong value", where="rules", expected=f"a list of 1 to {MAX_RULES} rules")
    rules = []
    for at, entry in enumerate(given):
        named = {"name": f"rule {at + 1}", **entry} if isinstance(entry, dict) else entry
        try:
            rules.append(Rule.model_validate(named))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(["rules", str(at), *map(str, first["loc"])])
            raise ConfigError("has a wrong value", where=place, expected=first["msg"]) from None
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ConfigError("two rules have one name", where="rules", expected="another name for each")
    return rules


def _patterns(rule: Rule) -> Iterator[Pattern]:
    terms = [*rule.terms, *_terms_of(rule.terms_file)]
    if len(terms) > MAX_TERMS:
        raise ConfigError("too many terms", where=rule.name, found=len(terms), expected=f"at most {MAX_TERMS}")
    if not (terms or rule.patterns or rule.kinds):
        raise ConfigError("describes nothing", where=rule.name, expected="terms, terms_file, patterns or kinds")
    yield from map(of_term, terms)
    for text in (*rule.patterns, *(text for kind in rule.kinds for text in KINDS[kind])):
        yield of_regex(text)


def _terms_of(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        lines = Path(file).expanduser().read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "cannot be read", where=file, found=str(error)[:200], expected="UTF-8, a term a line"
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
