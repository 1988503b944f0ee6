"""Whoever made a batch is asked for again: by its key's public id, never by the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from identity_support import Keys, asking_state, keys_beside
from kept_support import asking, batch_of, ended, line, results

from deepseek.api import serving
from deepseek.api.identity.caller import LOCAL_CALLER, LocalIdentifier
from deepseek.api.identity.identifier import KeyIdentifier
from deepseek.api.kept.callers import recall, write_caller
from deepseek.api.kept.shelf import Shelf
from deepseek.api.store import keys as store


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    with keys_beside(tmp_path) as found:
        yield found


def test_a_caller_is_written_without_its_key_and_found_again(keys: Keys) -> None:
    record, key = keys.make("acme", "professional", scopes=("infer", "read"), models=("m",))
    keys.ring.load()
    held = keys.ring.find(key)
    assert held is not None and held.caller is not None
    written = json.loads(json.dumps(write_caller(held.caller)))
    assert key not in json.dumps(written) and written["key_id"] == record.id
    assert recall(KeyIdentifier(keys.ring), written) == held.caller


def test_a_key_that_is_revoked_or_expired_and_a_suspended_tenant_are_gone(keys: Keys) -> None:
    identifier = KeyIdentifier(keys.ring)
    for end in ("revoked", "expired", "suspended"):
        record, key = keys.make(end, expires=keys.clock.now + 60 if end == "expired" else None)
        keys.ring.load()
        held = keys.ring.find(key)
        assert held is not None and held.caller is not None
        written = write_caller(held.caller)
        assert recall(identifier, written) is not None
        if end == "revoked":
            keys.database.write_now(
                lambda connection, record=record: store.revoke_key(connection, record.id, keys.clock.now)
            )
        elif end == "suspended":
            keys.database.write_now(lambda connection: store.suspend_tenant(connection, "suspended", keys.clock.now))
        else:
            keys.clock.now += 61
        keys.ring.load()
        assert recall(identifier, written) is None, end


def test_nobodys_batch_is_the_local_tenants_until_the_first_key_is_made(keys: Keys) -> None:
    identifier, written = KeyIdentifier(keys.ring, open_until_keyed=True), write_caller(LOCAL_CALLER)
    assert recall(identifier, written) == LOCAL_CALLER
    keys.make()
    keys.ring.load()
    assert recall(identifier, written) is None
    assert recall(LocalIdentifier(), written) == LOCAL_CALLER
    assert recall(object(), written) is None


def test_a_batch_runs_in_the_name_of_the_key_it_was_made_with(keys: Keys, tmp_path: Path) -> None:
    _, key = keys.make("acme", models=("deepseek-7b",))
    _, other = keys.make("globex")
    keys.ring.load()
    state = asking_state(keys)
    state.shelf = Shelf(keys.database, keys.writer, tmp_path / "files")
    with serving(state, grace_s=0.2) as server, asking(server.url, key) as client:
        made = batch_of(
            client, [line("a"), line("b", model="deepseek-tiny", messages=[{"role": "user", "content": "b"}])]
        )
        batch = ended(client, made.id)
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
        refused = results(client, batch.error_file_id)["b"]["response"]
        assert refused["status_code"] == 404 and "deepseek-tiny" in refused["body"]["error"]["message"]
        with asking(server.url, other) as stranger:
            assert list(stranger.batches.list()) == [] and list(stranger.files.list()) == []
    assert key not in (tmp_path / "control.db").read_bytes().decode("latin-1")
