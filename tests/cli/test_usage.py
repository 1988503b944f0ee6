"""`deepseek usage`, on a database that a server left behind."""

from pathlib import Path

import pytest

from deepseek.api.metering.counters import record, usage_row
from deepseek.api.metering.prices import Price
from deepseek.api.store.database import Database
from deepseek.cli import main
from deepseek.core.engine import Usage

NOON = 1_764_072_000.0  # 2025-11-25 12:00:00 UTC


@pytest.fixture
def database(tmp_path: Path) -> Path:
    opened = Database.open(str(tmp_path / "control.db"))
    rows = []
    for key, model, at in (("k1", "a", NOON), ("k1", "b", NOON), ("k2", "b", NOON + 86400)):
        whose = {
            "tenant": "acme",
            "subject": key,
            "key_id": key,
            "model": model,
            "route": "/",
            "request_id": "r",
            "opened": at,
        }
        rows.append(usage_row(whose, Usage(1000, 500), Price(10**9, 10**9, 2 * 10**9), "stop", 0.1))
    opened.write_now(lambda connection: record(connection, rows))
    opened.close()
    return tmp_path / "control.db"


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["usage", *args])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_usage_is_summed_by_day(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--database", str(database)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("2025")]
    assert lines == [
        ["2025-11-25", "2", "2,000", "0", "1,000", "3,000", "0.004"],
        ["2025-11-26", "1", "1,000", "0", "500", "1,500", "0.002"],
    ]


def test_usage_is_exported_as_csv(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--database", str(database), "--csv", "--by", "key,model,day", "--until", "2025-11-26") == 0
    assert capsys.readouterr().out.splitlines() == [
        "key,model,day,requests,prompt_tokens,cached_tokens,completion_tokens,total_tokens,cost",
        "k1,a,2025-11-25,1,1000,0,500,1500,0.002",
        "k1,b,2025-11-25,1,1000,0,500,1500,0.002",
    ]


def test_the_configuration_names_the_database(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (database.parent / "platform.yaml").write_text("database: control.db\n")
    assert run("--config", str(database.parent / "platform.yaml"), "--csv", "--by", "") == 0
    assert capsys.readouterr().out.splitlines()[1] == "3,3000,0,1500,4500,0.006"


@pytest.mark.parametrize(
    ("option", "value", "said"), [("--since", "noon", "--since"), ("--by", "city", "tenant, key, model, day")]
)
def test_a_mistake_is_one_line(
    database: Path, option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--database", str(database), option, value) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
