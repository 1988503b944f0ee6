"""What a test registers is gone after it."""

from collections.abc import Iterator

import pytest

import deepseek.plugins.registry as registry

registry.available()  # what is built in registers when it is first imported, which must not be within a test


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    yield
