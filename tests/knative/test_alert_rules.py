"""The alert rules of the manifests, evaluated by Prometheus' own tool against series that a controller writes."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import knative
from warmpool.domain.decision import AdjustmentRule
from warmpool.reconcile.canary_values import Phase

RULES = Path(knative.__file__).parent / "manifests" / "controller" / "monitoring" / "rules.yaml"
POOL = {"namespace": "default", "pool": "office", "target": "generate"}
LAST_PASS = "pilotlight_warmpool_last_pass_timestamp_seconds"


def series(name, values, **labels):
    """Input series of promtool: a value each 30 seconds."""
    written = ",".join(f'{key}="{value}"' for key, value in {**POOL, **labels}.items())
    return {"series": f"pilotlight_warmpool_{name}{{{written}}}", "values": values}


def last_pass(values):
    return {"series": LAST_PASS, "values": values}


STEADY = last_pass("0+30x80")
CASES = {
    "a controller that works": ([STEADY], "WarmPoolControllerSilent", "20m", False),
    "one short pause": ([last_pass("0+30x10 300x8 540+30x60")], "WarmPoolControllerSilent", "12m", False),
    "a controller that hangs": ([last_pass("0+30x10 300x70")], "WarmPoolControllerSilent", "13m", True),
    "a controller that died": ([last_pass("0+30x10 stale")], "WarmPoolControllerSilent", "8m", True),
    "a controller that never ran": ([], "WarmPoolControllerSilent", "5m", True),
    "a restart": ([last_pass("0+30x10 stale _x2 420+30x60")], "WarmPoolControllerSilent", "8m", False),
    "a floor that is there": (
        [series("requested", "2x80"), series("ready", "2x80")], "WarmPoolFloorMissing", "20m", False,
    ),
    "a floor that is missing": (
        [series("requested", "2x80"), series("ready", "1x80")], "WarmPoolFloorMissing", "16m", True,
    ),
    "a floor that is being raised": (
        [series("requested", "2x80"), series("ready", "0x10 2x70")], "WarmPoolFloorMissing", "16m", False,
    ),
    "a floor of 5 that max-scale cuts to 2": (
        [series("floor", "5x80"), series("requested", "2x80"), series("ready", "2x80")],
        "WarmPoolFloorMissing", "30m", False,
    ),
    "an exhausted budget of which something is left": (
        [series("reason", "1x80", reason=AdjustmentRule.EXHAUSTED), series("budget_left", "3x80")],
        "WarmPoolBudgetSpent", "5m", True,
    ),
    "a budget that cannot be counted": (
        [series("reason", "1x80", reason=AdjustmentRule.UNCOUNTABLE)], "WarmPoolBudgetSpent", "5m", True,
    ),
    "a budget that only trims a floor": (
        [series("reason", "1x80", reason=AdjustmentRule.REPLICAS)], "WarmPoolBudgetSpent", "5m", False,
    ),
    "writes that fail for long": ([series("failures", "0+1x80")], "WarmPoolWritesFail", "10m", True),
    "a signal without a reading": (
        [series("signal_readable", "0x80", signal="gpu")], "WarmPoolSignalUnreadable", "16m", True,
    ),
    "a signal that is read again": (
        [series("signal_readable", "0x20 1x60", signal="gpu")], "WarmPoolSignalUnreadable", "16m", False,
    ),
    "a rollout that was rolled back": (
        [series("rollout", "1x80", phase=Phase.ROLLED_BACK.value)], "RolloutStopped", "5m", True,
    ),
    "a rollout that goes on": (
        [series("rollout", "1x80", phase=Phase.ANALYSING.value)], "RolloutStopped", "5m", False,
    ),
    "one refused write": ([series("failures", "0x4 1 0x70")], "WarmPoolWritesFail", "10m", False),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed; CI installs it")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_alert_fires_when_it_should_and_only_then(case, tmp_path):
    given, alert, at, fires = case
    spec = yaml.safe_load(RULES.read_text())["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": given,
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": at,
                        "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
