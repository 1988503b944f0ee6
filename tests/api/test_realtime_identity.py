"""/v1/stream and whoever opened it: a connection outlives neither its tenant's suspension nor its token."""

import json
import time
from pathlib import Path

import pytest
from identity_support import asking_state, keys_beside
from realtime_support import close_code, hear, opened, say, until_final
from test_issuer_tokens import KEY_SET, config, token

from deepseek.api import serving
from deepseek.api.identity.tokens import TokenVerifier
from deepseek.api.store import keys as store
from deepseek.api.tiers import Tiers

MODEL = "deepseek-7b"


@pytest.mark.parametrize("in_header", [True, False])
def test_a_tenant_that_is_suspended_is_answered_nothing_more_on_a_connection_it_has(
    tmp_path: Path, in_header: bool
) -> None:
    with keys_beside(tmp_path) as keys:
        _, key = keys.make()
        keys.ring.load()
        headers = {"authorization": f"Bearer {key}"} if in_header else {}
        with (
            serving(asking_state(keys), grace_s=1.0) as server,
            opened(server.url, additional_headers=headers) as connection,
            opened(server.url, additional_headers={"authorization": f"Bearer {key}"}) as another,
        ):
            if not in_header:
                say(connection, type="auth", key=key)
            say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
            assert until_final(connection)[-1]["type"] == "final"
            keys.database.write_now(lambda db: store.suspend_tenant(db, "acme", keys.clock.now))
            keys.ring.load()
            say(connection, type="generate", id="b", model=MODEL, prompt="Hi")
            message = hear(connection)
            assert (message["id"], message["error"]["status"]) == ("b", 403)
            assert message["error"]["type"].endswith("forbidden") and "suspended" in message["error"]["detail"]
            assert close_code(connection) == 1008
            # One on which nothing was asked meanwhile goes on once it is resumed.
            keys.database.write_now(lambda db: store.suspend_tenant(db, "acme", None))
            keys.ring.load()
            say(another, type="generate", id="c", model=MODEL, prompt="Hi")
            assert until_final(another)[-1]["type"] == "final"


@pytest.mark.parametrize("in_header", [True, False])
def test_a_token_that_expires_ends_its_connection_at_the_next_request(tmp_path: Path, in_header: bool) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(KEY_SET))
    with keys_beside(tmp_path) as keys:
        state = asking_state(keys, tokens=TokenVerifier(config(file, leeway_s=0), Tiers()))
        with serving(state, grace_s=1.0) as server:
            brief = token("EdDSA", exp=int(time.time()) + 2)
            headers = {"authorization": f"Bearer {brief}"} if in_header else {}
            with opened(server.url, additional_headers=headers) as connection:
                if not in_header:
                    say(connection, type="auth", key=brief)
                heard = []
                while not heard or heard[-1]["type"] == "final":
                    say(connection, type="generate", id="a", model=MODEL, prompt="Hi")
                    heard.append(until_final(connection)[-1])
                assert len(heard) > 1, "it was good at first"
                assert heard[-1]["error"]["type"].endswith("unauthenticated")
                assert "expired" in heard[-1]["error"]["detail"]
                assert close_code(connection) == 1008
