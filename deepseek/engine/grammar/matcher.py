"""Which tokens a constraint leaves open, step by step.

A `CompiledGrammar` is what `deepseek.engine.grammar.compiler` makes of a constraint, for one vocabulary. Each
sequence gets its own `Matcher` from it, which follows the tokens chosen so far and says as a bit mask which ones may
come next: those after which the text can still be completed, and the end of the sequence exactly where the text may
end. Where the text has only one continuation, the mask holds that text's usual spelling in tokens alone, and
`forced` says it in advance, so that it can be proposed as a draft and need not be computed token by token.

The parsing is llguidance's (an Earley parser over a lexer of regular-expression derivatives). It fails in three ways:
return values, a state of error that a matcher never leaves, and panics. Here they become one exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import llguidance
import numpy as np
import numpy.typing as npt

from deepseek.core.errors import DeepSeekError

_Result = TypeVar("_Result")


class GrammarError(DeepSeekError):
    """A grammar cannot go on: it was given a token that it does not allow, or a limit of its parser was reached."""


class Matcher(Protocol):
    """How far one sequence has come in its grammar. Not to be used by two threads at once."""

    def masks(self, draft: Sequence[int]) -> npt.NDArray[np.int32] | None:
        """What may come next, and what after each of the drafted tokens: int32 [len(draft) + 1, W]. None: anything.

        W = ceil(vocab_size / 32); bit i % 32 of word i // 32 is set if token i is allowed. The state is the same
        afterwards. Rows behind a token that is not allowed repeat the row that refuses it. Raises GrammarError.
        """
        ...

    def accept(self, token: int) -> None:
        """Go on by one token. Raises GrammarError if it is not allowed; the state is then the same as before."""
        ...

    def forced(self, limit: int) -> list[int]:
        """The next tokens, at most `limit`, as far as no step leaves a choice. The state is the same afterwards."""
        ...

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        """How many of the tokens, from the first, may come next in this order. The state is the same afterwards."""
        ...

    @property
    def done(self) -> bool:
        """Whether nothing may follow but the end of the sequence."""
        ...


class CompiledGrammar:
    """A grammar ready for use; immutable, may be shared between threads.

    vocab_size: the model's number of logits, padding included. eos_ids: the ids that end a sequence.
    """

    def __init__(self, root: llguidance.LLMatcher, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._root = root
        self.vocab_size = vocab_size
        self.eos_ids = tuple(eos_ids)

    def matcher(self) -> Matcher:
        """A matcher at the beginning of the text. Raises GrammarError."""
        return _Matcher(call_guarded(self._root, self._root.deep_copy), self.vocab_size, self.eos_ids)


class _Matcher:
    """The end of the sequence is noted here: llguidance never sees an end token, so it can always be rolled back."""

    def __init__(self, inner: llguidance.LLMatcher, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._inner = inner
        self._vocab_size = vocab_size
        self._eos_ids = frozenset(eos_ids)
        self._eos_row = np.zeros((vocab_size + 31) // 32, dtype=np.int32)
        for token in eos_ids:
            self._eos_row.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)
        self._ended = False

    def masks(self, draft: Sequence[int]) -> npt.NDArray[np.int32]:
        rows = np.tile(self._eos_row, (len(draft) + 1, 1))
        if self._ended:
            return rows
        taken = 0
        try:
            self._fill(rows[0])
            for index, token in enumerate(draft, start=1):
                if token in self._eos_ids and self._call(self._inner.is_accepting):
                    break  # behind the end there is only the end: the rows say so already
                if not self._consume(token):
                    rows[index:] = rows[index - 1]
                    break
                taken = index
                self._fill(rows[index])
        finally:
            if taken and not self._inner.is_error():
                self._call(lambda: self._inner.rollback(taken))
        return rows

    def accept(self, token: int) -> None:
        if token in self._eos_ids:
            if not self._ended and not self._call(self._inner.is_accepting):
                raise GrammarError("the text may not end here", where="grammar", found=f"end token {token}")
            self._ended = True
        elif self._ended or not self._consume(token):
            raise GrammarError("not a token that the grammar allows here", where="grammar", found=token)

    def forced(self, limit: int) -> list[int]:
        if limit <= 0 or self.done:
            return []
        return self._call(self._inner.compute_ff_tokens)[:limit]

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        if self._ended:
            return next((n for n, token in enumerate(tokens) if token not in self._eos_ids), len(tokens))
        text = []
        for token in tokens:
            if token in self._eos_ids or not 0 <= token < self._vocab_size:
                break
            text.append(token)
        count = self._call(lambda: self._inner.validate_tokens(text)) if text else 0
        if count == len(text) < len(tokens) and tokens[count] in self._eos_ids and self._ends_after(text):
            ends = tokens[count:]
            count += next((n for n, token in enumerate(ends) if token not in self._eos_ids), len(ends))
        return count

    @property
    def done(self) -> bool:
        return self._ended or self._call(self._inner.is_stopped)

    def _ends_after(self, text: list[int]) -> int:
        """1 if an end token may follow the allowed tokens `text`, else 0."""
        end = self.masks(text)[-1] & self._eos_row
        return int(end.any())

    def _fill(self, row: npt.NDArray[np.int32]) -> None:
        self._call(lambda: self._inner.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes))

    def _consume(self, token: int) -> bool:
        if not 0 <= token < self._vocab_size or self._inner.is_stopped():
            return False
        return self._call(lambda: self._inner.try_consume_tokens([token])) == 1

    def _call(self, function: Callable[[], _Result]) -> _Result:
        return call_guarded(self._inner, function)


def call_guarded(matcher: llguidance.LLMatcher, function: Callable[[], _Result]) -> _Result:
    """Call a method of `matcher`; raise GrammarError if that fails, panics, or leaves the matcher in error."""
    try:
        result = function()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # a panic of Rust code is no Exception
        raise GrammarError("the grammar's parser failed", where="grammar", found=summary(str(error))) from error
    if matcher.is_error():
        raise GrammarError("the grammar's parser gave up", where="grammar", found=summary(matcher.get_error()))
    return result


def summary(message: str) -> str:
    """A message of llguidance on one line of at most 300 characters, without the backtrace or state dumped behind it."""
    return " ".join(message.partition("\n<")[0].split())[:300]
