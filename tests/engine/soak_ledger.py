"""What every request was told, written down where the engine hands it over; and what must be true of it at its end."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field

from soak_requests import FAULT_STOP, Spec, matches

from deepseek.core.engine import Embedding, Event, Finish, PromptScores, Ready, TokenLogprob, Tokens

STEP_FAILED = "the model could not compute this step"


@dataclass(slots=True)
class Told:
    """One request's answer, joined."""

    spec: Spec
    reasons: tuple[str, ...] = ()
    ids: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    logprobs: list[list[TokenLogprob]] = field(default_factory=list)
    scores: list[TokenLogprob | None] = field(default_factory=list)
    vector: bytes = b""
    versions: set[int] = field(default_factory=set)

    @property
    def digest(self) -> bytes:
        """Of everything told, to the last bit, but not of how it was cut into events."""
        answer = self.reasons, self.ids, self.texts, self.logprobs, self.scores, self.vector
        return hashlib.sha256(repr(answer).encode()).digest()


def join(spec: Spec, events: list[Event]) -> Told:
    choices = range(spec.request.sampling.n)
    told = Told(spec, ids=[[] for _ in choices], texts=["" for _ in choices], logprobs=[[] for _ in choices])
    for event in events:
        if isinstance(event, Tokens):
            told.ids[event.choice] += event.token_ids
            told.texts[event.choice] += event.text
            told.logprobs[event.choice] += event.logprobs or ()
            if event.token_ids:
                told.versions.add(event.weights_version)
        elif isinstance(event, PromptScores):
            told.scores[event.start :] = event.logprobs
            told.versions.add(event.weights_version)
        elif isinstance(event, Embedding):
            told.vector = event.values.tobytes()
            told.versions.add(event.weights_version)
        elif isinstance(event, Finish):
            told.reasons = event.reasons
    return told


class Ledger:
    """Which requests are open, and everything that was wrong with those that ended."""

    def __init__(self, keep_every: int) -> None:
        self.open: dict[str, tuple[Spec, list[Event]]] = {}
        self.ended: set[int] = set()
        self.failures: list[str] = []
        self.reasons: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        # Of some answers: which request's, under which weights, and its digest; more would look like a leak.
        self.kept: list[tuple[int, int, bytes]] = []
        self.closing = False
        self._keep_every = keep_every

    def enter(self, spec: Spec) -> None:
        self.open[spec.request.id] = spec, []

    def refuse(self, request_id: str, reason: str) -> None:
        """Refused requests were never told anything."""
        spec, events = self.open.pop(request_id, (None, []))
        if spec is None or events:
            self.failures.append(f"{request_id}: was refused after it had been told something, or twice")
        self.refused[reason] += 1

    def note(self, request_id: str, events: list[Event]) -> None:
        found = self.open.get(request_id)
        if found is None:
            self.failures.append(f"{request_id}: told {type(events[-1]).__name__} after its end, or never asked for")
            return
        spec, so_far = found
        so_far += events
        if any(isinstance(event, Finish) for event in events):
            del self.open[request_id]
            if spec.index in self.ended:
                self.fail(spec, "ended twice")
            self.ended.add(spec.index)
            for breach in self._breaches(spec, so_far):
                self.fail(spec, breach)

    def fail(self, spec: Spec, what: str) -> None:
        self.failures.append(f"r{spec.index}: {what} ({spec.reader}, fault {spec.fault}, {spec.request.sampling})")

    def _breaches(self, spec: Spec, events: list[Event]) -> list[str]:
        request, sampling = spec.request, spec.request.sampling
        finish = events[-1]
        if not isinstance(finish, Finish) or [type(event) for event in events].count(Finish) != 1:
            return ["Finish is not the one last event"]
        told = join(spec, events)
        found: list[str] = []
        embeds = request.task == "embed"
        samples = not embeds and sampling.max_tokens > 0
        self.reasons.update(finish.reasons)
        if spec.is_bad and not set(finish.reasons) <= {"cancelled", "deadline"}:
            found.append("was served")
        if len(finish.reasons) != (sampling.n if samples else 1) and "cancelled" not in finish.reasons:
            found.append(f"{len(finish.reasons)} reasons")
        if len(events) > 1 and not isinstance(events[0], Ready) and "deadline" not in finish.reasons:
            found.append(f"began with {type(events[0]).__name__}")
        if isinstance(events[0], Ready) and sampling.seed is not None and events[0].seed != sampling.seed:
            found.append("another seed")
        if "cancelled" in finish.reasons and not (spec.leaves or self.closing):
            found.append("cancelled by nobody")
        if "deadline" in finish.reasons and spec.expires_s is None:
            found.append("a deadline that it has not")
        if "error" in finish.reasons:
            self.errors[(finish.error or "")[:60]] += 1
            if not finish.error:
                found.append("an error without a text")
            if spec.fault is None and STEP_FAILED not in (finish.error or "") and not _may_dead_end(spec):
                found.append(f"an error: {finish.error}")
        usage, told_tokens = finish.usage, sum(map(len, told.ids))
        # A token whose text or grammar failed was generated and never told.
        untold = usage.completion_tokens - told_tokens
        if not 0 <= untold <= finish.reasons.count("error") or usage.prompt_tokens != len(request.prompt_ids):
            found.append(f"usage {usage} of {told_tokens} tokens told")
        if usage.cached_tokens > len(request.prompt_ids) or usage.total_tokens < usage.prompt_tokens:
            found.append(f"usage {usage}")
        whole = set(finish.reasons) <= {"stop", "length"}
        if whole and sampling.prompt_logprobs is not None and not embeds:
            scores = told.scores
            if len(scores) != len(request.prompt_ids) or scores[0] is not None or None in scores[1:]:
                found.append(f"{len(scores)} scores of {len(request.prompt_ids)}")
        if whole and embeds and not told.vector:
            found.append("no vector")
        for choice, reason in enumerate(finish.reasons if samples else ()):
            found += [f"choice {choice}: {what}" for what in self._choice(spec, told, choice, reason)]
        readable = whole and spec.expires_s is None and not spec.leaves and spec.fault is None and sampling.seed
        if readable and len(told.versions) <= 1 and spec.index % self._keep_every == 0 and not found:
            self.kept.append((spec.index, next(iter(told.versions), 0), told.digest))
        return found

    def _choice(self, spec: Spec, told: Told, choice: int, reason: str) -> list[str]:
        sampling, request = spec.request.sampling, spec.request
        ids, text, logprobs = told.ids[choice], told.texts[choice], told.logprobs[choice]
        found: list[str] = []
        if len(ids) > sampling.max_tokens:
            found.append(f"{len(ids)} tokens")
        if reason == "length" and len(ids) != sampling.max_tokens and len(ids) + len(request.prompt_ids) < 160:
            found.append(f"length after {len(ids)}")
        if len(logprobs) != (len(ids) if sampling.logprobs is not None else 0):
            found.append(f"{len(logprobs)} logprobs of {len(ids)} tokens")
        if any(not math.isfinite(entry.logprob) or entry.logprob > 1e-4 for entry in logprobs):
            found.append("a logprob that is none")
        if any(one.token_id != token for one, token in zip(logprobs, ids, strict=False)):
            found.append("logprobs of other tokens")
        if any(stop in text for stop in sampling.stop if not stop.startswith(FAULT_STOP)):
            found.append(f"a stop string in {text!r}")
        if set(ids[:-1]) & set(sampling.stop_token_ids):
            found.append("a stop id in the middle")
        banned = {word[0] for word in sampling.bad_word_ids if len(word) == 1}
        banned |= {token for token, bias in sampling.logit_bias if bias == -math.inf}
        if banned & set(ids):
            found.append("a token that is banned")
        if set(ids[: sampling.min_tokens - 1]) & set(sampling.stop_token_ids):
            found.append("ended before min_tokens")
        if reason == "stop" and request.constraint is not None and not matches(request.constraint, text):
            found.append(f"{text!r} is not what its constraint asks for")
        return found


def _may_dead_end(spec: Spec) -> bool:
    """Whether nothing may be left to sample: everything likely is banned."""
    return spec.request.constraint is not None
