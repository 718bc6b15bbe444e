"""docs/triggers.md says what there is: fields, defaults, conditions, metrics, commands."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from pilotlight.agent_triggers import AgentTrigger
from pilotlight.cli.trigger import app
from pilotlight.dispatcher_settings import DispatcherSettings
from triggers.__main__ import app as process
from triggers.decisions.answers import outcome_of_status
from triggers.metrics import TriggerMetrics
from triggers.sources.credentials import SECRETS_VARIABLE, read_credentials
from triggers.sources.sqs import MAX_VISIBILITY_S
from triggers.spec.field_types import format_seconds
from triggers.spec.trigger import TriggerSpec

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "triggers.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def row(name: str) -> str:
    [line] = [
        line for line in GUIDE.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]
    ]
    return line


def test_the_examples_are_valid():
    entry, trigger, cluster = (yaml.safe_load(block) for block in blocks("yaml"))
    [written] = entry["spec"]["triggers"]
    assert AgentTrigger.model_validate(written).source.kind == "sqs"
    assert TriggerSpec.parse(trigger["spec"]).secrets == ("rabbitmq",)
    assert DispatcherSettings.model_validate(cluster["spec"]["dispatcher"]).max_replicas == 4


def test_the_credentials_are_those_that_are_read(tmp_path):
    table = GUIDE.split("## Credentials")[1].split("\n## ")[0]
    for key in ("url", "username", "password", "token", "nats.creds", "ca.crt", "tls.crt", "tls.key"):
        assert f"`{key}`" in table
        (tmp_path / "broker").mkdir(exist_ok=True)
        (tmp_path / "broker" / key).write_text("x")
    found = read_credentials({SECRETS_VARIABLE: str(tmp_path)}, "NATS", "broker")
    assert None not in {getattr(found, field.name) for field in dataclasses.fields(found)}
    assert SECRETS_VARIABLE in table
    variables = {
        f"NATS_{name}": "x" for name in ("URL", "USERNAME", "PASSWORD", "TOKEN", "CREDS_FILE", "CA_FILE")
    }
    found = read_credentials(variables, "NATS", None)
    assert (found.url, found.password, found.creds_file) == ("x", "x", "x")
    for name in (
        "_USERNAME",
        "_PASSWORD_FILE",
        "_CA_FILE",
        "_CERT_FILE",
        "_KEY_FILE",
        "NATS_CREDS_FILE",
        "KAFKA_URL",
    ):
        assert name in table


def test_the_table_has_every_field_and_its_default():
    spec = TriggerSpec.parse({"source": {"sqs": {"queue": "q"}}, "target": {"service": "s"}})
    table = GUIDE.split("## Fields")[1].split("\n## ")[0]
    for name, field in TriggerSpec.model_fields.items():
        assert f"`{field.alias or name}" in table
    for name, default in {
        "concurrency": str(spec.concurrency),
        "timeout": format_seconds(spec.timeout),
        "retry.attempts": str(spec.retry.attempts),
        "retry.backoff.initial": f"`{format_seconds(spec.retry.backoff.initial)}`, {spec.retry.backoff.factor:g}, "
        f"`{format_seconds(spec.retry.backoff.max)}`",
        "batch.size": str(spec.batch.size),
        "format": spec.format,
        "paused": str(spec.paused).lower(),
    }.items():
        assert default in row(name).split("|")[2], name


def test_the_answers_mean_what_the_table_says():
    from datetime import UTC, datetime

    meanings = {
        2: "delivered",
        408: "failed",
        425: "failed",
        500: "failed",
        429: "throttled",
        404: "rejected",
        302: "rejected",
    }
    for status, verdict in meanings.items():
        real = 200 if status == 2 else status
        assert outcome_of_status(real, {}, "", datetime.now(UTC)).verdict == verdict
        assert re.search(r"\| 2xx|408|425|5xx|429|4xx|3xx", GUIDE)


def test_the_metrics_and_limits_are_those_that_there_are():
    registry = CollectorRegistry()
    TriggerMetrics(registry)
    there = {name for family in registry.collect() for name in (family.name, f"{family.name}_total")}
    for name in re.findall(r"`(pilotlight_[a-z_]+)`", GUIDE):
        assert name in there, name
    assert f"{MAX_VISIBILITY_S // 3600} h" in GUIDE


@pytest.mark.parametrize("command", sorted(set(re.findall(r"pilotlight trigger ((?:dlq )?[a-z]+)", GUIDE))))
def test_the_commands_are_there(command):
    answer = CliRunner().invoke(app, [*command.split(), "--help"])
    assert answer.exit_code == 0, answer.output


def test_the_process_has_the_options_that_the_guide_names():
    from typer.main import get_command

    names = {option for parameter in get_command(process).params for option in parameter.opts}
    for option in ("--trigger", "-n", "--drain-seconds", "--port"):
        assert option in names
    port = next(parameter for parameter in get_command(process).params if parameter.name == "port")
    assert f"at port {port.default}" in GUIDE
