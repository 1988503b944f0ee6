"""What every test stands on: the same seeds, one compute thread, no network beyond this machine.

The environment is set before anything imports torch or a tokenizer, and processes that tests start inherit it.
"""

import os
import random
import socket
import sys
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

settings.register_profile("local", deadline=None, print_blob=True)
# The same examples every time: a red run is a changed program, never a lucky draw.
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed the global generators; numpy's and torch's only where something has already loaded them."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave this machine."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise AssertionError(f"a test tried to reach {address[0]}; tests speak to this machine only")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)
