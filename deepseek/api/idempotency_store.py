"""Idempotency keys in the database: who holds one, and the answers that are kept to be given again.

    (nothing) -> running -> kept    the answer, for 24 hours
                         -> lost    charged, late or by the next server after a crash too, but the answer could not be
                                    kept: it is neither repeated nor run again
                         -> (nothing)  it failed, or its client left, or its server died before anything was charged

A row belongs to the use that made it, by a token drawn for it. Answers of one tenant are bounded in number and bytes; the
oldest are forgotten first, and their keys are free then.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import sqlalchemy as sa

from deepseek.api.metering.claim import Claim
from deepseek.api.metering.patience import write_patiently
from deepseek.api.metering.servers import Presence
from deepseek.api.metering.tables import idempotency
from deepseek.api.store.writer import Writer
from deepseek.core.errors import StoreError

KEPT_S = 86400.0
MAX_ANSWER_BYTES = 1 << 20
MAX_TENANT_BYTES = 256 << 20
MAX_TENANT_ANSWERS = 100_000
PRUNE_AFTER_BYTES = 32 << 20
PRUNE_AFTER_ANSWERS = 1000

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What was answered."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


Taken = Claim | KeptAnswer | Literal["running", "other", "lost"]
"""What asking for a key comes to: it is ours; it was answered; its request runs; it belongs to another body; see above."""

_INSERT = sa.text(
    """
    INSERT INTO idempotency (id, tenant, fingerprint, token, server, state, settled, expires, size)
    VALUES (:id, :tenant, :fingerprint, :token, :server, 'running', :settled, :expires, 0)
    ON CONFLICT (id) DO NOTHING
    """
).bindparams(sa.bindparam("settled", type_=sa.Boolean), sa.bindparam("expires", type_=sa.Double))


class IdempotencyStore:
    """Used from one event loop. presence: the server's, as its meter announces it. clock: seconds since 1970."""

    def __init__(
        self,
        writer: Writer,
        presence: Presence,
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_tenant_bytes: int = MAX_TENANT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_answer_bytes = max_answer_bytes
        self._max_tenant_bytes = max_tenant_bytes
        self._writer, self._presence, self._clock = writer, presence, clock
        self._live: set[str] = set()  # tokens of requests that run here
        self._kept_bytes = self._kept_answers = 0  # since the last pruning

    async def take(self, key_id: str, tenant: str, fingerprint: str) -> Taken:
        """Hold the key for a request, if nobody has used it. key_id: 64 hexadecimal digits. Raises StoreError."""
        claim = Claim(key_id, secrets.token_hex(16))
        self._live.add(claim.token)
        try:
            taken = await write_patiently(
                self._writer, partial(self._take, claim=claim, tenant=tenant, fingerprint=fingerprint)
            )
        except BaseException:
            self.release(claim)  # it may have been committed all the same
            raise
        if taken is not claim:
            self._forget(claim)
        return taken

    async def keep(self, claim: Claim, status: int, headers: Headers, body: bytes) -> None:
        """Returns once the answer is on disk. Raises StoreError; the key is then lost, or free if nothing was charged."""
        named = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]
        values = {"state": "kept", "status": status, "headers": named, "body": body, "size": len(body)}
        await self._end(claim, values)
        self._kept_bytes += len(body)
        self._kept_answers += 1
        if self._kept_bytes >= PRUNE_AFTER_BYTES or self._kept_answers >= PRUNE_AFTER_ANSWERS:
            self._kept_bytes = self._kept_answers = 0
            self._writer.submit(partial(prune, max_bytes=self._max_tenant_bytes))

    async def lose(self, claim: Claim) -> None:
        """The answer is not to be had again. Raises StoreError."""
        await self._end(claim, {"state": "lost"})

    def release(self, claim: Claim) -> None:
        """Free the key: who asks for it from now on finds it free. If that cannot be written, who asks frees it.

        One whose usage is still to be written stays as it is, and is lost with that.
        """
        claim.over = True
        if claim.owed:
            return
        try:
            freed = self._writer.submit(partial(_release, claim=claim))
        except StoreError:
            self._forget(claim)
        else:
            # Not before: who asked earlier, and is answered earlier, finds a request that ran when it asked.
            freed.add_done_callback(lambda _: self._forget(claim))

    async def _end(self, claim: Claim, values: dict[str, object]) -> None:
        values["expires"] = self._clock() + KEPT_S
        mine = idempotency.c.id == claim.id, idempotency.c.token == claim.token
        try:
            await write_patiently(
                self._writer, lambda connection: connection.execute(idempotency.update().where(*mine).values(values))
            )
        finally:
            self._forget(claim)

    def _forget(self, claim: Claim) -> None:
        claim.over = True
        self._live.discard(claim.token)

    def _take(self, connection: sa.Connection, claim: Claim, tenant: str, fingerprint: str) -> Taken:
        now = self._clock()
        row = {
            "id": claim.id,
            "tenant": tenant,
            "fingerprint": fingerprint,
            "token": claim.token,
            "server": self._presence.id,
            "settled": False,
            "expires": now + KEPT_S,
        }
        if connection.execute(_INSERT, row).rowcount:
            return claim
        known = connection.execute(
            sa.select(idempotency).where(idempotency.c.id == claim.id).with_for_update()
        ).one_or_none()
        if known is None:  # another server has just freed it
            return claim if connection.execute(_INSERT, row).rowcount else "running"
        state = known.state
        if state != "running":
            self._live.discard(known.token)  # of one that was written late
        if state == "running" and known.server == self._presence.id and known.token not in self._live:
            # Its end could not be written.
            state = "lost" if known.settled else "free"
        if state == "free" or (state != "running" and known.expires <= now):
            connection.execute(idempotency.delete().where(idempotency.c.id == claim.id))
            connection.execute(_INSERT, row)
            return claim
        if known.fingerprint != fingerprint:
            return "other"
        if state != "kept":
            return "running" if state == "running" else "lost"
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in known.headers]
        return KeptAnswer(known.status, headers, bytes(known.body))


def _release(connection: sa.Connection, claim: Claim) -> None:
    connection.execute(
        idempotency.delete().where(
            idempotency.c.id == claim.id, idempotency.c.token == claim.token, idempotency.c.state == "running"
        )
    )


def prune(connection: sa.Connection, max_bytes: int, max_answers: int = MAX_TENANT_ANSWERS) -> None:
    """Forget each tenant's oldest answers beyond so many bytes or so many answers."""
    whose, newest_first = idempotency.c.tenant, (idempotency.c.expires.desc(), idempotency.c.id)
    ranked = (
        sa.select(
            idempotency.c.id,
            sa.func.sum(idempotency.c.size).over(partition_by=whose, order_by=newest_first).label("bytes"),
            sa.func.row_number().over(partition_by=whose, order_by=newest_first).label("place"),
        )
        .where(idempotency.c.state != "running")
        .subquery()
    )
    old = sa.select(ranked.c.id).where(sa.or_(ranked.c.bytes > max_bytes, ranked.c.place > max_answers))
    connection.execute(idempotency.delete().where(idempotency.c.id.in_(old)))
