"""Which adapter a name means, and who still computes with it.

An adapter has a handle that is never given twice, also its version. A request keeps the handle that its name meant when
it came; so a name can be given other weights, or be withdrawn, while requests go on with the old ones, which are freed
when the last of them has ended. Knows names and numbers only: the weights stand in the worker. Not thread-safe: the
engine's loop calls it with its lock held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from deepseek.core.errors import AdmissionError, ConfigError

NO_ADAPTER = -1


class AdapterNames:
    """on_unused is called with the handle of an adapter that no name means and no request uses any more."""

    def __init__(self, on_unused: Callable[[int], None] = lambda handle: None) -> None:
        self.on_unused = on_unused
        self._handles: dict[str, int] = {}
        self._users: Counter[int] = Counter()
        self._last = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._handles)

    def new_handle(self) -> int:
        self._last += 1
        return self._last

    def publish(self, name: str, handle: int) -> None:
        """From now on the name means this adapter."""
        before = self._handles.get(name)
        self._handles[name] = handle
        self._check_use(before)

    def withdraw(self, name: str, announce: Callable[[int], None] = lambda handle: None) -> None:
        """The name means nothing any more. `announce` gets the handle it had, before `on_unused` may.

        Raises ConfigError for an unknown name.
        """
        handle = self._handles.pop(name, None)
        if handle is None:
            raise ConfigError("no adapter of this name is loaded", where="adapter", found=name, expected=self._known())
        announce(handle)
        self._check_use(handle)

    def handle_of(self, name: str | None) -> int:
        """The handle for a new request; NO_ADAPTER for None. Raises AdmissionError for an unknown name."""
        if name is None:
            return NO_ADAPTER
        handle = self._handles.get(name)
        if handle is None:
            raise AdmissionError(
                "no adapter of this name is loaded",
                reason="unknown_model",
                where="adapter",
                found=name,
                expected=self._known(),
            )
        return handle

    def enter(self, handle: int) -> None:
        """One more request uses it."""
        if handle != NO_ADAPTER:
            self._users[handle] += 1

    def leave(self, handle: int) -> None:
        """One request fewer."""
        if handle != NO_ADAPTER:
            self._users[handle] -= 1
            self._check_use(handle)

    def _check_use(self, handle: int | None) -> None:
        if handle is not None and not self._users[handle] and handle not in self._handles.values():
            del self._users[handle]
            self.on_unused(handle)

    def _known(self) -> str:
        return " or ".join(sorted(self._handles)[:8]) or "none: no adapter is loaded"
