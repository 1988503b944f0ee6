"""One quick server for the tests that only look at answers."""

from collections.abc import Iterator

import pytest
from api_support import quick, state_of

from deepseek.api import serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(state_of(quick()), grace_s=1.0) as server:
        yield server.url
