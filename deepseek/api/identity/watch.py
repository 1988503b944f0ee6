"""Whether keys were made in a database that another server holds, for a server that runs without one beside it.

It asked nobody when it started because there were no keys. From the first key on callers must have one, and this server
cannot check it: so it looks at the counter of the other's database, as the ring does, and answers nobody any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from deepseek.api.identity.ring import POLL_S
from deepseek.api.problems import Problem, retry_after
from deepseek.api.store.database import Database
from deepseek.api.store.keys import version
from deepseek.core.errors import StoreError

log = logging.getLogger("deepseek.api.identity")


class KeyWatch:
    """Looks when it is asked, once in `poll_s` at most; nothing is written.

    database: its owner closes it. clock: seconds, monotonic.
    """

    def __init__(
        self, database: Database, *, clock: Callable[[], float] = time.monotonic, poll_s: float = POLL_S
    ) -> None:
        self._database, self._clock, self._poll_s = database, clock, poll_s
        self._keyed, self._readable = False, True
        self._look_at = clock()
        self._one_at_a_time = asyncio.Lock()

    @property
    def keyed(self) -> bool:
        """Whether there were keys when it last looked."""
        return self._keyed

    async def require_none(self) -> None:
        """Raise Problem 503 once a key was made, for good, and as long as nobody can tell whether one was."""
        if not self._keyed and self._clock() >= self._look_at:
            async with self._one_at_a_time:
                if not self._keyed and self._clock() >= self._look_at:
                    await self._look()
        if self._keyed:
            raise Problem(
                "identity-unavailable",
                "Callers need a key now, and this server cannot check keys: it runs without a database, which another "
                "server on this machine holds. Use that one.",
                headers={"x-should-retry": "false"},
            )
        if not self._readable:
            raise Problem(
                "identity-unavailable",
                "Whether callers need a key cannot be read now: the control database does not answer.",
                headers=retry_after(self._poll_s),
            )

    async def _look(self) -> None:
        try:
            self._keyed = await self._database.read(version) > 0
        except StoreError as error:
            if self._readable:
                log.error("whether there are keys cannot be read; nobody is answered until it can: %s", error)
            self._readable = False
        else:
            self._readable = True
            if self._keyed:
                log.warning("keys were made, which this server cannot check: nobody is answered any more")
        self._look_at = self._clock() + self._poll_s
