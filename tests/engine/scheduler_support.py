"""The scheduler's world: a simulated cache and a toy model, shared by its tests.

The toy model reads only what a real one could: its next token is a hash of everything that the plan's block
table reaches. What it wrote for each token depends on all tokens before it. So a wrong slot, a block shared
too early, a stale or foreign block, a draft taken for a token, or a token computed twice or never shows as a wrong
answer, and the answer is compared with one computed without any cache, batch or draft.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deepseek.core.engine import FinishReason, Request
from deepseek.core.errors import AdmissionError
from deepseek.core.sampling import SamplingParams
from deepseek.engine.plan import KIND_EMBED, KIND_SAMPLE, KIND_SCORE, StepPlan
from deepseek.engine.request import RequestState
from deepseek.engine.request import Sequence as Choice
from deepseek.engine.scheduler import Scheduler, SchedulerConfig, Update
from deepseek.engine.speculation.policy import confirmed

VOCABULARY = 13
EOS = 12
STEMS = [tuple((stem * 5 + i) % 11 for i in range(24)) for stem in range(2)]


def entry(previous: bytes, token: int) -> bytes:
    """What the toy model keeps in the cache for a token: it depends on the whole past."""
    return hashlib.blake2b(previous + token.to_bytes(4, "little"), digest_size=8).digest()


def entries_of(tokens: Sequence[int]) -> list[bytes]:
    entries: list[bytes] = []
    for token in tokens:
        entries.append(entry(entries[-1] if entries else b"", token))
    return entries


def draw(entries: list[bytes], seed: int, choice: int, position: int, allowed: Sequence[int]) -> int:
    payload = b"".join(entries) + repr((seed, choice, position)).encode()
    return allowed[int.from_bytes(hashlib.blake2b(payload, digest_size=4).digest(), "little") % len(allowed)]


class ToyMatcher:
    """A grammar of `length` tokens, at each place one to three of them by what came before; token `fail_at` breaks it."""

    def __init__(self, length: int, salt: int, fail_at: int | None = None) -> None:
        self.length, self.salt, self.fail_at = length, salt, fail_at
        self.said: list[int] = []

    def allowed(self, said: Sequence[int]) -> list[int]:
        if len(said) == self.length:
            return [EOS]
        kind = (sum(said) * 7 + len(said) * 3 + self.salt) % 5
        return [(kind + i * 4 + len(said)) % (VOCABULARY - 1) for i in range((1, 1, 2, 3, 3)[kind])]

    def masks(self, draft: Sequence[int]) -> np.ndarray:
        masks = [sum(1 << token for token in self.allowed([*self.said, *draft[:i]])) for i in range(len(draft) + 1)]
        return np.array(masks, np.int32)[:, None]

    def accept(self, token: int) -> None:
        if len(self.said) == self.fail_at:
            raise RuntimeError("the toy grammar breaks")
        if token not in self.allowed(self.said):
            raise ValueError(f"{token} is not allowed after {self.said}")
        self.said.append(token)

    def forced(self, limit: int) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < limit and len(self.said) + len(tokens) < self.length:
            allowed = self.allowed([*self.said, *tokens])
            if len(allowed) > 1:
                break
            tokens += allowed
        return tokens

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        for count, token in enumerate(tokens):
            if token not in self.allowed([*self.said, *tokens[:count]]):
                return count
        return len(tokens)

    @property
    def done(self) -> bool:
        return len(self.said) == self.length


NewMatcher = Callable[[], ToyMatcher]


def answer(
    request: Request, choice: int, max_length: int, new_grammar: NewMatcher | None = None
) -> tuple[list[int], FinishReason]:
    """The toy model's output for one choice, without cache, batch, scheduler or draft."""
    sampling = request.sampling
    if request.task == "embed":
        return [], "stop"
    if sampling.max_tokens == 0:
        return [], "length"
    entries = entries_of(request.prompt_ids)
    grammar = None if new_grammar is None else new_grammar()
    output: list[int] = []
    while True:
        allowed = range(VOCABULARY) if grammar is None else sorted(grammar.allowed(output))
        token = draw(entries, sampling.seed or 0, choice, len(entries), allowed)
        output.append(token)
        if token in sampling.stop_token_ids or (token == EOS and not (sampling.ignore_eos and grammar is None)):
            return output, "stop"
        if grammar is not None:
            if len(output) - 1 == grammar.fail_at:
                return output, "error"
            grammar.accept(token)
            if grammar.done:
                return output, "stop"
        if len(output) == sampling.max_tokens or len(request.prompt_ids) + len(output) == max_length:
            return output, "length"
        entries.append(entry(entries[-1], token))


@dataclass
class World:
    """A scheduler, its cache and the toy model, with every rule of the cache checked at every step."""

    scheduler: Scheduler
    now: float = 0.0
    cache: dict[int, bytes] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    grammars: dict[str, NewMatcher] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    ended: dict[str, RequestState] = field(default_factory=dict)
    first_token: dict[str, float] = field(default_factory=dict)
    tokens_of_tenant: Counter[str] = field(default_factory=Counter)
    """Computed for the first time: recomputing after a preemption serves nobody, a wrong draft neither."""
    furthest: Counter[Choice] = field(default_factory=Counter)
    read_positions: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Of each request's prompt, those whose scores or hidden states came, in order."""
    plans: list[bytes] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    audited: bool = True
    """Off where long queues make the audit the slowest part and another test covers it."""
    during: Callable[[], None] | None = None
    """Called once while a step runs, between plan and results."""
    right_drafts: float | None = None
    """How many of the drafts that the worker makes are right, 0 to 1; None: it makes none."""
    confirmed: int = 0
    answers: dict[tuple[str, int], tuple[list[int], FinishReason]] = field(default_factory=dict)

    @classmethod
    def of(cls, *, audited: bool = True, right_drafts: float | None = None, **config: Any) -> World:
        config = {"num_blocks": 16, "max_model_len": 64, "block_size": 4, "eos_token_ids": frozenset({EOS})} | config
        seeds = iter(range(10**6))
        scheduler = Scheduler(SchedulerConfig(**config), draw_seed=lambda: next(seeds))
        return cls(scheduler, audited=audited, right_drafts=right_drafts)

    def add(self, request: Request, new_grammar: NewMatcher | None = None) -> RequestState | None:
        self.requests[request.id] = request
        try:
            state = self.scheduler.add(request, self.now, new_grammar=new_grammar)
        except AdmissionError:
            self.refused.add(request.id)
            return None
        if new_grammar is not None:
            self.grammars[request.id] = new_grammar
        self.audit()
        return state

    def audit(self) -> None:
        if self.audited:
            self.scheduler.check()

    def step(self) -> StepPlan | None:
        self.now += 1.0
        plan = self.scheduler.schedule(self.now)
        self.audit()
        if plan is not None:
            self.plans.append(plan.to_bytes())
            self.write(plan)
            read = StepPlan.from_bytes(self.plans[-1])
            tokens = self.read(read)
            drafts = self.draft(read, tokens)
            if self.during is not None:
                self.during()
                self.during = None
            for update in self.scheduler.apply(plan, tokens, drafts):
                self.take(update)
            self.scheduler.observe(1.0)
        self.audit()
        for state in self.scheduler.take_ended():
            assert state.request.id not in self.ended, "a request ended twice"
            assert state.finished and len(state.reasons) == len(state.sequences)
            self.ended[state.request.id] = state
        return plan

    def take(self, update: Update) -> None:
        self.updates.append(update)
        request = update.sequence.request
        if update.token_ids:
            self.first_token.setdefault(request.id, self.now)
            gained = len(update.token_ids) - 1
            self.confirmed += gained
            self.furthest[update.sequence] += gained
            self.tokens_of_tenant[request.tenant] += gained
        self.read_positions[request.id] += update.positions

    def write(self, plan: StepPlan) -> None:
        scheduler = self.scheduler
        planned = scheduler.planner.under_way
        assert planned is not None
        assert 0 < plan.num_tokens <= scheduler.config.max_tokens_per_step
        assert plan.num_sequences <= scheduler.config.max_sequences
        assert len(set(plan.slots.tolist())) == plan.num_tokens, "one slot is written twice in a step"
        size = scheduler.config.block_size
        for index, (sequence, count, drafted, _) in enumerate(planned):
            rows = slice(int(plan.cu_q[index]), int(plan.cu_q[index + 1]))
            # Exactly the tokens that are not in the cache yet, in order.
            assert plan.positions[rows].tolist() == list(range(sequence.computed, sequence.computed + count))
            assert plan.drafted[index] == drafted <= max(scheduler.config.max_draft_tokens, 16)
            end = sequence.computed + count - drafted
            self.tokens_of_tenant[sequence.request.tenant] += max(
                0, end - max(sequence.computed, self.furthest[sequence])
            )
            self.furthest[sequence] = max(end, self.furthest[sequence])
            for token, position, slot in zip(
                plan.token_ids[rows].tolist(), plan.positions[rows].tolist(), plan.slots[rows].tolist(), strict=True
            ):
                block = slot // size
                assert scheduler.pool.references(block) == 1, "a shared block is written"
                assert scheduler.pool._keys[block] is None, "a registered block is written"
                assert [s for s in scheduler.places.running if block in s.blocks] == [sequence]
                table = plan.block_tables[index]
                previous = b""
                if position:
                    previous = self.cache[int(table[(position - 1) // size]) * size + (position - 1) % size]
                self.cache[slot] = entry(previous, token)

    def read(self, plan: StepPlan) -> list[int]:
        planned = self.scheduler.planner.under_way
        assert planned is not None
        size = self.scheduler.config.block_size
        tokens = []
        for row, index in enumerate(plan.row_sequence.tolist()):
            assert plan.seq_of_token[plan.rows[row]] == index
            length = int(plan.positions[plan.rows[row]]) + 1
            assert length <= plan.lengths[index]
            where = np.arange(length)
            slots = plan.block_tables[index][where // size] * size + where % size
            entries = [self.cache[slot] for slot in slots.tolist()]
            prompt = planned[index].sequence.request.prompt_ids
            if plan.row_kind[row] == KIND_SAMPLE:
                tokens.append(self.sample(plan, row, entries))
                continue
            assert entries == entries_of(prompt[:length])
            if plan.row_kind[row] == KIND_SCORE:
                assert plan.row_target[row] == prompt[length]
                tokens.append(prompt[length])
            else:
                assert plan.row_kind[row] == KIND_EMBED
                tokens.append(0)
        return tokens

    def sample(self, plan: StepPlan, row: int, entries: list[bytes]) -> int:
        sampling = plan.sampling
        assert sampling.position[row] == len(entries)
        mask = int(sampling.mask_of_row[row])
        bits = (1 << VOCABULARY) - 1 if mask < 0 else int(sampling.masks[mask][0])
        allowed = [token for token in range(VOCABULARY) if bits >> token & 1]
        return draw(entries, int(sampling.seed[row]), int(sampling.choice[row]), len(entries), allowed)

    def draft(self, plan: StepPlan, tokens: list[int]) -> list[list[int]] | None:
        """What a worker would guess: the toy model's own answer, spoilt here and there."""
        planned = self.scheduler.planner.under_way
        assert planned is not None
        if self.right_drafts is None:
            return None
        drafts: list[list[int]] = []
        for index, (sequence, _, drafted, _) in enumerate(planned):
            rows = np.flatnonzero((plan.row_sequence == index) & (plan.row_kind == KIND_SAMPLE)).tolist()
            guess: list[int] = []
            if rows:
                ids = plan.token_ids[plan.rows[rows[0]] + 1 :][:drafted].tolist()
                known = sequence.generated + 1 + confirmed(ids, [tokens[row] for row in rows])
                output, _ = self.answer_of(sequence.state, sequence.choice)
                most = int(plan.propose[index])
                guess = output[known : known + most]
                guess += [(plan.step + i) % VOCABULARY for i in range(most - len(guess))]
                for place in range(len(guess)):
                    if (plan.step * 31 + index * 17 + place * 7) % 100 >= self.right_drafts * 100:
                        guess[place] = (guess[place] + 1) % VOCABULARY
            drafts.append(guess)
        return drafts

    def drain(self, limit: int = 5000) -> None:
        for _ in range(limit):
            if self.step() is None:
                return
        raise AssertionError(f"still busy after {limit} steps: {self.scheduler.load(self.now)}")

    def answer_of(self, state: RequestState, choice: int) -> tuple[list[int], FinishReason]:
        key = state.request.id, choice
        if key not in self.answers:
            seeded = replace(state.request, sampling=replace(state.request.sampling, seed=state.seed))
            grammar = self.grammars.get(state.request.id)
            self.answers[key] = answer(seeded, choice, self.scheduler.max_length, grammar)
        return self.answers[key]

    def check_answers(self) -> None:
        """Each request ended once, and said what the model says alone, or the beginning of it if it was cut off."""
        assert self.ended.keys() | self.refused == self.requests.keys()
        for state in self.ended.values():
            for sequence in state.sequences:
                output, reason = self.answer_of(state, sequence.choice)
                if sequence.finish_reason in ("stop", "length", "error"):
                    assert (sequence.output_ids, sequence.finish_reason) == (output, reason)
                else:
                    assert sequence.output_ids == output[: sequence.generated]
            self.check_prompt_read(state)

    def check_prompt_read(self, state: RequestState) -> None:
        """Every position that something was wanted of came once and in order, all of them if the request was served."""
        wanted: list[int] = []
        if state.reads_prompt:
            last = len(state.request.prompt_ids) - 1
            wanted = list(range(last))
            if state.embeds:
                wanted = [last] if state.request.pooling == "last" else [*wanted, last]
        read = self.read_positions[state.request.id]
        assert read == wanted[: len(read)]
        if state.sequences[0].generated or state.reasons[0] in ("stop", "length"):
            assert read == wanted


TOP = ("priority", "deadline", "cache_salt", "task", "pooling", "lease")


def request(name: str, prompt: Any = (1, 2, 3), tenant: str = "local", **rest: Any) -> Request:
    at_top = {key: rest.pop(key) for key in TOP if key in rest}
    sampling = SamplingParams(**({"max_tokens": 8, "seed": 1} | rest))
    return Request(name, tuple(prompt), sampling, tenant=tenant, **at_top)
