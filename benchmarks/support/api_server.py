"""The contestants of benchmarks/api.py, each in a process held to one core: our front, a bare route, LiteLLM's proxy."""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from deepseek.api.identity.administration import NewKey, check, issue
from deepseek.api.identity.secret import secret_of
from deepseek.api.store.database import Database
from deepseek.api.store.writer import Writer
from support.fake_server import MODEL
from support.report import NotMeasured
from support.served import HOST, free_port, running

HERE = Path(__file__).parent
TENANTS = {
    "main": "bench",
    "basic": "basic",
    "professional": "professional",
    "enterprise": "enterprise",
    "bounded": "bench",
    "budgeted": "bench",
}
"""Keys by name, each of a tenant of that name, and their tiers."""


@dataclass(frozen=True, slots=True)
class Served:
    """Our front while it runs. keys: by name, see TENANTS."""

    url: str
    keys: dict[str, str]
    database: Path
    process: psutil.Process
    grpc_address: str = ""

    def cpu_s(self) -> float:
        """Processor seconds used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_mib(self) -> float:
        return float(self.process.memory_info().rss / 2**20)

    def used_tokens(self, tenant: str, *, prompts: bool = True) -> int:
        """What the ledger says."""
        columns = "prompt_tokens + completion_tokens" if prompts else "completion_tokens"
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as reading:
            (found,) = reading.execute(
                f"SELECT coalesce(sum({columns}), 0) FROM usage WHERE tenant = ?", (tenant,)
            ).fetchone()
        return int(found)

    def bills(self, tenant: str) -> int:
        """Requests in the ledger."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as reading:
            (found,) = reading.execute("SELECT count(*) FROM usage WHERE tenant = ?", (tenant,)).fetchone()
        return int(found)

    async def until_billed(self, tenant: str, count: int) -> None:
        """Wait until so many requests are in the ledger."""
        for _ in range(1000):
            if self.bills(tenant) >= count:
                return
            await asyncio.sleep(0.005)
        raise SystemExit(f"the ledger has {self.bills(tenant)} requests where {count} were made")


@contextmanager
def served(
    *, gap_s: float = 0.0, burst_s: float = 1.0, budget_tokens: int | None = None, grpc: bool = False
) -> Iterator[Served]:
    """Our front with keys, limits, metering to SQLite and metrics on. gap_s: between a stream's tokens; 0: none."""
    with tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / "control.db"
        config = {
            "database": str(database),
            "tiers": {
                # Limited like the others, at a rate that the load does not reach.
                "bench": {"based_on": "enterprise", "requests_per_second": 100_000.0, "dynamic": False},
                "basic": {"burst_s": burst_s},
                "professional": {"burst_s": burst_s},
            },
            "prices": {MODEL: {"input": 0.27, "output": 1.1}},
            "budgets": [{"scope": "tenant", "name": "budgeted", "period": "month", "tokens": 10**15}],
        }
        if budget_tokens is not None:
            config["budgets"].append(  # type: ignore[attr-defined]
                {"scope": "tenant", "name": "bounded", "period": "total", "tokens": budget_tokens}
            )
        file = Path(scratch) / "platform.yaml"
        file.write_text(yaml.safe_dump(config))
        keys = _make_keys(database)
        port, grpc_port = free_port(), free_port()
        command = _on_core(0, sys.executable, str(HERE / "fake_server.py"), "--port", str(port))
        command += ["--config", str(file), "--gap-s", str(gap_s)] + (["--grpc-port", str(grpc_port)] if grpc else [])
        with running(command, port, "/readyz") as server:
            process = psutil.Process(server.pid)
            yield Served(f"http://{HOST}:{port}", keys, database, process, f"{HOST}:{grpc_port}")


@contextmanager
def bare() -> Iterator[str]:
    """One FastAPI route that makes the answer up itself; its address."""
    port = free_port()
    with running(_on_core(0, sys.executable, str(HERE / "bare_app.py"), "--port", str(port)), port, "/healthz"):
        yield f"http://{HOST}:{port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    url: str
    key: str


@contextmanager
def litellm(model: str) -> Iterator[Proxy]:
    """LiteLLM's proxy with an answer made up inside it. Raises NotMeasured where there is none."""
    python = os.environ.get("LITELLM_PYTHON")
    if not python:
        raise NotMeasured("LITELLM_PYTHON is not set")
    with tempfile.TemporaryDirectory() as scratch:
        key = f"sk-{secrets.token_hex(16)}"
        answer = {"model": f"openai/{model}", "api_key": "none", "mock_response": "An answer."}
        config = {
            "model_list": [{"model_name": model, "litellm_params": answer}],
            "general_settings": {"master_key": key},
        }
        file = Path(scratch) / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        port = free_port()
        command = _on_core(0, str(Path(python).parent / "litellm"), "--config", str(file), "--port", str(port))
        with running([*command, "--host", HOST, "--num_workers", "1"], port, "/health/liveliness"):
            yield Proxy(f"http://{HOST}:{port}", key)


def _make_keys(database: Path) -> dict[str, str]:
    opened = Database.open(str(database))
    writer = Writer(opened)
    keys = {}
    try:
        secret = secret_of(opened)
        for name, tier in TENANTS.items():
            wanted = NewKey(name, tier, name)
            check(wanted, set(TENANTS.values()), 0.0)
            add, keys[name] = issue(wanted, secret)
            writer.submit(add).result()
    finally:
        writer.close()
        opened.close()
    return keys


def _on_core(core: int, *command: str) -> list[str]:
    allowed = sorted(os.sched_getaffinity(0))
    every = sorted(range(os.cpu_count() or 1))
    return ["taskset", "-c", str(every[core] if every else allowed[core]), *command]
