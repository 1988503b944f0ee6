"""Whether drafts pay, found out by trying.

What a drafted token costs depends on the machine, the model and how many sequences run: with one, the weights are read
anyway and more rows are nearly free; with many, rows are the work. What it brings depends on the text. So both are
measured together: tokens per second with and without drafts, an average for each number of running sequences (1, 2-3,
4-7, 8 and more), which forgets. The better way is used, and the other one is tried again now and then: more and more
rarely while the answer stays the same, at once when the way in use falls behind what the other was last seen to do.

Deterministic: it knows only what it is told. A wrong decision costs time and never changes a token.
"""

from __future__ import annotations

TRIAL_STEPS = 8
FIRST_INTERVAL = 64
LONGEST_INTERVAL = 1024
HOPELESS_STEPS = 3
"""After so many steps a trial that goes much worse is broken off."""
_HOPELESS = 1.5
MARGIN = 0.03
"""How much better the other way must be, lest noise decide."""
_FORGETTING = 1 / 16
_OUTLIER = 4.0


class Payoff:
    """`wants_drafts` before each step, `observe` after it."""

    def __init__(self) -> None:
        self._buckets = [_Bucket() for _ in range(4)]

    def wants_drafts(self, running: int) -> bool:
        """Whether a step of that many sequences should use drafts."""
        return self._bucket(running).uses_drafts

    def in_use(self, running: int) -> bool:
        """Whether drafts are the way of choice, or may be soon: not tried yet, or leaving them is on trial."""
        bucket = self._bucket(running)
        return bucket.chosen or not bucket.decided

    def observe(self, running: int, drafted: bool, tokens: int, seconds: float) -> None:
        """A step of `running` sequences, with or without drafts, gained `tokens` in `seconds`."""
        if seconds > 0.0:
            self._bucket(running).observe(drafted, tokens, seconds)

    def _bucket(self, running: int) -> _Bucket:
        return self._buckets[min(max(running, 1).bit_length(), 4) - 1]


class _Bucket:
    """One number of sequences: which way is in use, and when the other is tried.

    Without drafts first, so that the first trial of them has something to be compared with. A trial ends when the other
    way has been seen TRIAL_STEPS times; the text may offer nothing to draft for long.
    """

    def __init__(self) -> None:
        self._rates = (_Rate(), _Rate())  # without, with drafts
        self.chosen = False
        self.decided = False
        self._on_trial = False
        self._wait = TRIAL_STEPS
        self._interval = FIRST_INTERVAL

    @property
    def uses_drafts(self) -> bool:
        return self.chosen is not self._on_trial

    def observe(self, drafted: bool, tokens: int, seconds: float) -> None:
        rate = self._rates[drafted]
        rate.add(tokens, seconds)
        other = self._rates[not self.chosen]
        if self._on_trial:
            enough = rate.count >= TRIAL_STEPS
            hopeless = rate.count >= HOPELESS_STEPS and rate.value * _HOPELESS < self._rates[self.chosen].value
            if drafted is not self.chosen and (enough or hopeless):
                self._decide()
        elif drafted is self.chosen or not drafted:
            self._wait -= 1
            behind = drafted is self.chosen and other.count and rate.value < other.value * (1 - MARGIN)
            if self._wait <= 0 or (behind and rate.count >= TRIAL_STEPS and other.count >= TRIAL_STEPS):
                self._on_trial = True
                other.forget()

    def _decide(self) -> None:
        self._on_trial, self.decided = False, True
        chosen, other = self._rates[self.chosen], self._rates[not self.chosen]
        if chosen.count and other.value > chosen.value * (1 + MARGIN):
            self.chosen = not self.chosen
            self._interval = FIRST_INTERVAL
        else:
            self._interval = min(2 * self._interval, LONGEST_INTERVAL)
        self._wait = self._interval


class _Rate:
    """Tokens per second: both averaged by themselves, for a mean of quotients would favour lucky steps."""

    __slots__ = ("_seconds", "_tokens", "count")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.count = 0
        self._tokens = self._seconds = 0.0

    @property
    def value(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        if self.count >= TRIAL_STEPS // 2:
            seconds = min(seconds, _OUTLIER * self._seconds)  # something else took the machine
        self.count += 1
        weight = max(1 / self.count, _FORGETTING)
        self._tokens += weight * (tokens - self._tokens)
        self._seconds += weight * (seconds - self._seconds)
