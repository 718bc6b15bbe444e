"""`pilotlight cost --format csv|parquet`: the account in rows, and the command on a running platform."""

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow.parquet as pq
import pytest

from pilotlight.cost_account import CallerUse, ServiceCost, shares
from pilotlight.cost_export import as_csv, rows, write_parquet

SINCE, UNTIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 9, 8, tzinfo=UTC)
COST = ServiceCost(
    "default", "generate-a", "a", Decimal(90), "USD", "office",
    {"window/office-hours": Decimal(60), "hold": Decimal(30)}, SINCE, UNTIL,
)  # fmt: skip
USES = [
    CallerUse("default", "generate-a", "ann", "web", 5, 30),
    CallerUse("default", "generate-a", "bob", "", 1, 60),
]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("service", {"default/generate-a": (90, 90, "Tokens")}),
        ("pool", {"default/office": (90, 90, "Tokens")}),
        ("agent", {"default/a": (90, 90, "Tokens")}),
        ("key", {"ann": (30, 30, "Tokens"), "bob": (60, 60, "Tokens")}),
        ("team", {"web": (30, 30, "Tokens"), "(no team)": (60, 60, "Tokens")}),
        ("reason", {"window/office-hours": (60, None, None), "hold": (30, None, None)}),
    ],
)
def test_what_each_row_has(by, expected):
    found = {
        row.x_AllocatedTo: (row.EffectiveCost, row.ConsumedQuantity, row.ConsumedUnit)
        for row in rows([COST], USES, by)
    }
    assert found == expected
    assert {line.name: line.amount for line in shares([COST], USES, by)} == {
        name: amount for name, (amount, _, _) in expected.items()
    }


def test_both_formats_say_the_same(tmp_path):
    unknown = ServiceCost("other", "idle", "", Decimal("0.1"), "EUR", "idle")
    found = rows([COST, unknown], USES, "key")
    [ann, _, nobody] = csv.DictReader(io.StringIO(as_csv(found)))
    assert ann["ChargePeriodStart"] == "2026-03-01T00:00:00+00:00"
    assert ann["EffectiveCost"] == "30.0000000000"
    assert json.loads(ann["Tags"]) == {"namespace": "default", "pool": "office", "agent": "a"}
    assert (nobody["x_AllocatedTo"], nobody["ConsumedQuantity"], nobody["ChargePeriodEnd"]) == (
        "(no key)",
        "",
        "",
    )
    write_parquet(found, tmp_path / "cost.parquet")
    table = pq.read_table(tmp_path / "cost.parquet")
    assert table.column_names == list(ann)
    assert table["EffectiveCost"].to_pylist() == [Decimal(30), Decimal(60), Decimal("0.1")]
    assert table["ChargePeriodEnd"].to_pylist() == [UNTIL, UNTIL, None]
    assert dict(table["Tags"][0].as_py())["pool"] == "office"


def test_the_command_writes_files_and_says_what_it_needs(cli, echo_agent):
    running = cli.start(
        "up", "--port", "0", "--api-port", "0", "--state", str(cli.state), "-f", str(echo_agent)
    )
    running.until(lambda text: "Ctrl-C stops" in text)
    options = ("cost", "--kubeconfig", str(cli.state / "kubeconfig"))
    for by in ("service", "pool", "agent", "key", "team", "reason"):
        printed = cli.run(*options, "--by", by, "--format", "csv")
        assert printed.returncode == 0, printed.stderr
        assert printed.stdout.startswith("ChargePeriodStart,ChargePeriodEnd,")
        assert "default/echo-demo" in printed.stdout
    file = cli.home / "cost.parquet"
    assert cli.run(*options, "--format", "parquet", "-o", str(file)).returncode == 0
    assert pq.read_table(file)["ResourceId"].to_pylist() == ["default/echo-demo"]
    missing = cli.run(*options, "--format", "parquet")
    assert (missing.returncode, "needs --output FILE" in missing.stderr) == (2, True)
    assert cli.run(*options, "-o", "x.csv").returncode == 2
