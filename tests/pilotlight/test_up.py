"""`pilotlight up` and the commands around it, as processes."""

import asyncio
import json
import re
import socket
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

from knative.client.cluster import Cluster
from knative.client.resources import WARM_POOL
from tests.warmpool.prometheus import metrics_page, needs_prometheus, prometheus, scraped


def gateway(output: str) -> str:
    found = re.search(r"functions +(http://\S+)", output)
    assert found
    return found[1]


def started(cli, *args: str):
    running = cli.start("up", "--port", "0", "--api-port", "0", "--state", str(cli.state), *args)
    return running, gateway(running.until(lambda text: "KUBECONFIG" in text))


def get(url: str, host: str | None = None) -> dict[str, str]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


def test_deploys_and_answers_at_path_and_host_and_leaves_nothing_after_ctrl_c(cli, echo_agent):
    running, url = started(cli, "-f", str(echo_agent))
    output = running.until(lambda text: "Ctrl-C stops" in text)
    assert "service/echo-demo created" in output
    assert f"curl -N {url.replace('127.0.0.1', 'localhost')}/default/echo-demo/" in output
    assert get(f"{url}/default/echo-demo/x?y=1") == {"service": "echo-demo", "path": "/x?y=1"}
    assert get(f"{url}/z", host="echo-demo.default.localhost")["path"] == "/z"
    below = running.descendants()
    assert below
    assert running.interrupt() == 0
    assert "stopped" in running.output
    assert not [p for p in below if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(url.rsplit(":", 1)[1])))


def test_status_logs_and_pool_tell_what_runs(cli, echo_agent):
    running, url = started(cli, "-f", str(echo_agent))
    running.until(lambda text: "Ctrl-C stops" in text)
    get(f"{url}/default/echo-demo/seen-in-the-log")
    kubeconfig = str(cli.state / "kubeconfig")
    status = cli.run("status", "--kubeconfig", kubeconfig).stdout
    assert re.search(r"default/echo-demo\s+yes\s+1/1", status)
    assert "requests: GET /seen-in-the-log by Python-urllib/" in " ".join(status.split())
    (address,) = re.findall(r"http://localhost:\d+/default/echo-demo/", status)
    assert get(address + "x")["path"] == "/x"
    logs = cli.run("logs", "echo-demo", "--state", str(cli.state)).stdout
    assert "seen-in-the-log" in logs
    pools = cli.run("pool", "ls", "--kubeconfig", kubeconfig)
    assert pools.returncode == 0, pools.stderr
    assert "echo-demo" in pools.stdout


def test_top_shows_replicas_floor_and_rates(cli, echo_agent):
    running, url = started(cli, "-f", str(echo_agent))
    running.until(lambda text: "Ctrl-C stops" in text)
    get(f"{url}/default/echo-demo/")
    result = cli.run("top", "--once", "--interval", "0.5", "--kubeconfig", str(cli.state / "kubeconfig"))
    heading, row = result.stdout.splitlines()
    shown = dict(zip(re.split(r"\s{2,}", heading.strip()), re.split(r"\s{2,}", row.strip()), strict=True))
    assert shown["service"] == "default/echo-demo"
    assert (shown["ready"], shown["replicas"], shown["floor"], shown["req/s"]) == ("yes", "1", "0", "0.0")
    assert shown["TTFT"] == "-", "nothing here generates tokens"


def test_deploy_twice_is_unchanged_and_delete_removes(cli, echo_agent):
    running, url = started(cli)
    running.until(lambda text: "Ctrl-C stops" in text)
    kubeconfig = str(cli.state / "kubeconfig")
    first = cli.run("deploy", "-f", str(echo_agent), "--kubeconfig", kubeconfig)
    assert "service/echo-demo created" in first.stdout
    again = cli.run("deploy", "-f", str(echo_agent), "--kubeconfig", kubeconfig)
    answers = f"echo-demo answers at http://localhost:{url.rpartition(':')[2]}/default/echo-demo/"
    assert again.stdout.splitlines() == [
        "service/echo-demo unchanged",
        "warmpool/echo-demo unchanged",
        answers.replace("echo-demo answers", "demo answers"),
    ]
    assert get(f"{url}/default/echo-demo/")["service"] == "echo-demo"
    gone = cli.run("delete", "-f", str(echo_agent), "--kubeconfig", kubeconfig)
    assert "service/echo-demo deleted" in gone.stdout
    assert (
        "nothing of this agent" in cli.run("delete", "-f", str(echo_agent), "--kubeconfig", kubeconfig).stdout
    )


def test_objects_outlive_a_restart_and_down_stops_it(cli, echo_agent):
    first, _ = started(cli, "-f", str(echo_agent))
    first.until(lambda text: "Ctrl-C stops" in text)
    down = cli.run("down", "--state", str(cli.state))
    assert "stopped" in down.stdout
    assert first.process.wait(10) == 0
    second, url = started(cli)
    assert get(f"{url}/default/echo-demo/again")["path"] == "/again"
    assert second.interrupt() == 0
    assert "nothing runs here" in cli.run("down", "--state", str(cli.state)).stdout


def test_port_in_use_is_one_clear_error_and_nothing_is_started(cli):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = cli.run("up", "--port", str(port), "--api-port", "0", "--state", str(cli.state))
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_second_platform_on_one_state_folder_is_refused(cli):
    started(cli)
    result = cli.run("up", "--port", "0", "--api-port", "0", "--state", str(cli.state))
    assert result.returncode == 1
    assert str(cli.state) in result.stderr
    assert "Traceback" not in result.stderr


def test_bad_agent_file_stops_up_before_anything_starts(cli, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "apiVersion: pilotlight.dev/v1alpha1\nkind: Agent\nmetadata: {name: A}\nspec: {stages: []}\n"
    )
    result = cli.run("up", "-f", str(path), "--state", str(cli.state))
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {path}:3: metadata.name")
    assert not cli.state.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "nowhere"), "--model nowhere: no config.json in there"),
        (("--model", "s3://no-such-bucket-here/m"), "no AWS credentials"),
        (("--agent", "none.yaml"), "none.yaml: cannot be read"),
        (("--prompts", "none.jsonl"), "none.jsonl: No such file"),
    ],
)
def test_a_demo_that_cannot_begin_leaves_the_earlier_one_alone(cli, options, says):
    earlier = {
        cli.home / "build/demo" / name for name in ("model/config.json", "report.json", "state/db", "cache/x")
    }
    for path in earlier:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of the earlier demo")
    result = cli.run("demo", *options)
    assert result.returncode != 0
    assert says in result.stderr
    assert {path for path in (cli.home / "build").rglob("*") if path.is_file()} == earlier


def test_a_relative_model_is_relative_to_its_file_or_to_where_the_command_runs(cli, echo_agent):
    folder = cli.home / "agents"
    folder.mkdir()
    agent = yaml.safe_load(echo_agent.read_text())
    agent["spec"] |= {"model": {"uri": "./near"}, "stages": [{"name": "ingest", "kind": "ingest"}]}
    agent["spec"].pop("warmPool", None)
    (folder / "agent.yaml").write_text(yaml.safe_dump(agent))

    def model_uri(*options: str) -> str:
        result = cli.run("render", "-f", "agents/agent.yaml", "-o", "json", *options)
        assert result.returncode == 0, result.stderr
        (item,) = json.loads(result.stdout)["items"]
        (container,) = item["spec"]["template"]["spec"]["containers"]
        return {variable["name"]: variable.get("value") for variable in container["env"]}[
            "PILOTLIGHT_MODEL_URI"
        ]

    assert model_uri() == str(folder / "near")
    assert model_uri("--model", "./near") == str(cli.home / "near")
    assert model_uri("--model", "../other") == str(cli.home.parent / "other")
    assert model_uri("--model", "~/near") == str(cli.home / "near")
    assert model_uri("--model", "/models/near") == "/models/near"
    assert model_uri("--model", "s3://models/near") == "s3://models/near"


def test_render_prints_what_deploy_would_apply(cli, echo_agent):
    result = cli.run("render", "-f", str(echo_agent), "-o", "json")
    items = json.loads(result.stdout)["items"]
    assert [item["kind"] for item in items] == ["Service", "WarmPool"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("status",), 1, "start one with `pilotlight up`"),
        (("deploy", "-f", "none.yaml"), 2, "none.yaml: cannot be read"),
        (
            ("render", "-f", str(Path(__file__).parents[2] / "examples/support/agent.yaml"), "--model", "x"),
            2,
            "s3://",
        ),
        (("logs", "nothing"), 1, "no replica of default/nothing"),
        (("invoke", "a", "hello", "--url", "http://127.0.0.1:9"), 1, "127.0.0.1:9"),
        (("up", "--port", "70000"), 2, "65535"),
        (("nonsense",), 2, "nonsense"),
        (("demo", "--model", "nowhere"), 1, "no config.json in there"),
    ],
)
def test_mistakes_are_answered_with_a_line_and_a_code(cli, args, code, says):
    result = cli.run(*args)
    assert result.returncode == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_with_a_proxy_in_the_environment_everything_on_this_machine_still_works(cli, echo_agent):
    cli.environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    running, _ = started(cli, "-f", str(echo_agent))
    running.until(lambda text: "Ctrl-C stops" in text)

    status = cli.run("status", "--kubeconfig", str(cli.state / "kubeconfig"))
    assert re.search(r"default/echo-demo\s+yes", status.stdout), status.stderr
    pools = cli.run("pool", "ls", "--kubeconfig", str(cli.state / "kubeconfig"))
    assert "not looked at yet" not in pools.stdout, running.output


def test_invoke_finds_the_platform_that_runs_whatever_its_port(cli, echo_agent):
    running, _ = started(cli, "-f", str(echo_agent))
    running.until(lambda text: "Ctrl-C stops" in text)

    result = cli.run("invoke", "echo-demo", "hello", "--state", str(cli.state))

    # The function of this test answers POST with 501: the request did reach it.
    assert result.returncode == 1
    assert "501" in result.stderr


def test_every_command_finds_the_state_folder_that_the_environment_names(cli, echo_agent):
    running, _ = started(cli, "-f", str(echo_agent))
    running.until(lambda text: "Ctrl-C stops" in text)
    cli.environment["PILOTLIGHT_STATE"] = str(cli.state)

    for command in (("status",), ("pool", "ls"), ("top", "--once", "--interval", "0.5")):
        answer = cli.run(*command)
        assert answer.returncode == 0, answer.stderr
        assert "echo-demo" in answer.stdout
    again = cli.run("deploy", "-f", str(echo_agent), "--no-wait")
    assert "service/echo-demo unchanged" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("deploy", "-f", "agent.yaml", "--timeout", "-1"), "'--timeout'"),
        (("invoke", "http://localhost:8080/default/a/", "hello"), "must be NAME or NAMESPACE/NAME"),
        (("weights", "pull", "s3://"), "s3://"),
    ],
)
def test_what_was_given_wrong_is_refused_before_anything_is_done(cli, arguments, message):
    answer = cli.run(*arguments)

    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


@needs_prometheus
async def test_signals_come_from_the_prometheus_of_this_machine(cli, echo_agent, tmp_path, unused_tcp_port):
    agent = yaml.safe_load(echo_agent.read_text())
    signal = {"name": "jobs", "query": "sum(jobs_waiting)", "target": {"averageValue": 5}}
    agent["spec"]["stages"][0]["warmPool"] = {"signals": [signal]}
    echo_agent.write_text(yaml.safe_dump(agent))
    async with metrics_page() as page:
        page.text = "jobs_waiting 9\n"
        async with prometheus(tmp_path / "prometheus", unused_tcp_port, page.url) as url:
            await scraped(url, "jobs_waiting")
            running, _ = started(cli, "--prometheus", url, "-f", str(echo_agent))
            await asyncio.to_thread(running.until, lambda text: "Ctrl-C stops" in text)
            config = cli.state / "kubeconfig"
            async with asyncio.timeout(40), Cluster.from_kubeconfig(config) as cluster:
                while (await cluster.get(WARM_POOL, "echo-demo", "default")).get("status", {}).get(
                    "floor"
                ) != 2:
                    await asyncio.sleep(0.1)
            explain = ("pool", "explain", "echo-demo", "--kubeconfig", str(config))
            shown = (await asyncio.to_thread(cli.run, *explain)).stdout
            assert running.interrupt() == 0

    assert "signal/jobs" in shown
    assert "jobs is 9, target 5 per replica" in shown


def test_an_agent_that_is_refused_leaves_the_platform_running_and_names_the_patch(cli, echo_agent, tmp_path):
    document = yaml.safe_load(echo_agent.read_text())
    document["metadata"]["name"] = "placed"
    document["spec"]["nodeSelector"] = {"zone": "a"}
    placed = tmp_path / "placed.yaml"
    placed.write_text(yaml.safe_dump(document))
    running, url = started(cli, "-f", str(placed), "-f", str(echo_agent))
    output = running.until(lambda text: "Ctrl-C stops" in text)
    assert "needs the feature flags kubernetes.podspec-nodeselector for nodeSelector" in output
    assert '{"data":{"kubernetes.podspec-nodeselector":"enabled"}}' in output
    assert get(f"{url}/default/echo-demo/")["service"] == "echo-demo"


def test_from_a_trace_to_an_applied_warm_pool_in_three_commands(cli, echo_agent, tmp_path):
    trace = tmp_path / "trace.csv"
    rows = [
        86_400 * day + 3600 * hour + 600 * step
        for day in range(9)
        if day % 7 < 5
        for hour in range(9, 17)
        for step in range(6)
    ]
    trace.write_text("timestamp,service_s\n" + "\n".join(f"{row},4" for row in rows) + "\n")
    running, _ = started(cli, "-f", str(echo_agent))
    running.until(lambda text: "Ctrl-C stops" in text)
    kubeconfig = str(cli.state / "kubeconfig")

    described = cli.run("experiment", "describe", str(trace))
    recommended = cli.run(
        "experiment", "recommend", str(trace), "--target", "echo-demo", "--start", "2026-03-02T09:00:00Z",
        "--load-s", "60", "--concurrency", "4", timeout=200,
    )  # fmt: skip
    (tmp_path / "pool.yaml").write_text(recommended.stdout)
    applied = cli.run("pool", "apply", str(tmp_path / "pool.yaml"), "--kubeconfig", kubeconfig)
    shown = cli.run("pool", "show", "echo-demo", "--kubeconfig", kubeconfig)

    assert (described.returncode, recommended.returncode) == (0, 0), recommended.stderr
    assert applied.stdout == "warmpool default/echo-demo applied\n", applied.stderr
    (window,) = yaml.safe_load(shown.stdout)["spec"]["windows"]
    assert (window["days"], window["replicas"]) == (["Mon", "Tue", "Wed", "Thu", "Fri"], 1)
    assert (window["from"], window["to"]) == ("08:50", "17:00")  # the first request comes on the hour
    (tmp_path / "pool.yaml").write_text(recommended.stdout.replace("WarmPool", "Pool"))
    refused = cli.run("pool", "apply", str(tmp_path / "pool.yaml"), "--kubeconfig", kubeconfig)
    assert refused.returncode == 2
    assert "must be a WarmPool with a name" in refused.stderr
