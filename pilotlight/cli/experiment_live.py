"""`pilotlight experiment replay`, `calibrate` and `compare`: experiments with what really runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from pilotlight.cli.options import Kubeconfig
from pilotlight.replay.exchange import Dialect, Exchange, dialect_of
from pilotlight.replay.plan import TokenCounts, check_url, planned_requests
from pilotlight.replay.probe import probe_arms
from pilotlight.replay.run import RESULTS, Connection, run
from pilotlight.replay.show import show, show_differences
from pilotlight.replay.sources import cold_starts_of, model_used, read_source
from pilotlight.replay.values import ReplayPlan
from warmpool.adapters.price_file import read_prices
from warmpool.experiments import calibrate as calibrating
from warmpool.experiments import compare as comparing
from warmpool.experiments.experiment import read_model
from warmpool.experiments.replay_error import compare_with_simulation
from warmpool.experiments.replay_report import to_json, write
from warmpool.experiments.replay_results import read_results

_HISTORIES = {".db", ".sqlite"}

Url = Annotated[str, typer.Option(help="The function URL; its path tells how it is asked.")]
Service = Annotated[
    str | None, typer.Option(help="NAMESPACE/NAME of its Service.", show_default="as the URL says")
]
State = Annotated[
    Path | None, typer.Option("--state", envvar="PILOTLIGHT_STATE", help="State folder of the platform.")
]
Model = Annotated[str | None, typer.Option(help="The model's name, for an OpenAI API.")]
AsDialect = Annotated[
    Dialect | None, typer.Option("--dialect", help="How it is asked.", show_default="by the URL's path")
]
Exact = Annotated[
    bool, typer.Option("--exact", help="Ask for exactly so many tokens (`ignore_eos`, as vLLM has it).")
]
Key = Annotated[str | None, typer.Option(envvar="PILOTLIGHT_KEY", help="A key, where the Service needs one.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds for one answer, cold start included.")]


def replay(
    file: Annotated[
        Path, typer.Argument(metavar="TRACE|FILE.yaml", help="A trace, or an experiment file with arms.")
    ],
    *,
    url: Url,
    speed: Annotated[float, typer.Option(min=0.001, max=100_000, help="Times as fast as recorded.")] = 1.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Send only the first so many.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option("--arm", help="Only this arm; repeat it.", show_default="all")
    ] = None,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Leave the warm pools alone: one arm.")
    ] = False,
    service: Service = None,
    kubeconfig: Kubeconfig = None,
    state: State = None,
    model: Model = None,
    dialect: AsDialect = None,
    key: Key = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Ask for exactly the trace's tokens (`ignore_eos`, as vLLM has it)."),
    ] = False,
    input_tokens: Annotated[int, typer.Option(min=1, help="Where the trace says nothing.")] = 32,
    output_tokens: Annotated[int, typer.Option(min=1, help="Where the trace says nothing.")] = 16,
    most_input_tokens: Annotated[int | None, typer.Option(min=1, help="Cut longer prompts to this.")] = None,
    most_output_tokens: Annotated[int | None, typer.Option(min=1, help="Cut longer answers to this.")] = None,
    max_in_flight: Annotated[
        int, typer.Option(min=1, max=65_536, help="Requests at once, at most; the rest waits.")
    ] = 256,
    timeout: Timeout = 300,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Output of `calibrate`, for the simulation.", show_default="the file, or this replay"
        ),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="Price list.", show_default="the packaged examples")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the results.", show_default="build/replays/NAME"),
    ] = None,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Go on after a bad row.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="For prompts, and arrivals not in the trace.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Send a trace to a function URL with each warm pool in turn, and lay the simulation beside it."""
    check_url(url)
    listed = read_prices(prices)
    given = None if calibration is None else read_model(calibration)
    source = read_source(file, listed, only=arm or [], skip_bad_rows=skip_bad_rows, seed=seed)
    tokens = TokenCounts(input_tokens, output_tokens, most_input_tokens, most_output_tokens)
    plan = ReplayPlan(
        exchange=_exchange(url, dialect, model, key, exact=exact, timeout_s=timeout),
        trace=file.name,
        requests=planned_requests(source.trace, speed=speed, most=requests, tokens=tokens),
        speed=speed,
        arms=() if as_it_is else source.arms,
        only=tuple(arm or ()),
        max_in_flight=max_in_flight,
        seed=seed,
    )
    folder = out or Path("build/replays") / file.name.split(".")[0]
    # Without pools to switch, a cluster is of use only for counting the replicas of a Service that was named.
    connection = None if as_it_is and service is None else Connection(service, kubeconfig, state)
    ended = run(plan, connection, folder)
    results = read_results(folder / RESULTS)
    used = model_used(results, source, None if given is None else (*given, str(calibration)))
    compared = [] if used is None else compare_with_simulation(results, used.service, used.replica, listed)
    if used is not None and compared:
        write(folder, results.header, compared, used)
    if as_json:
        typer.echo(json.dumps(to_json(results.header, compared, used), indent=2))
    else:
        show(results, compared, used, listed)
        typer.echo(f"results: {folder / RESULTS}")
    for line in ended.problems:
        typer.echo(line, err=True)
    if ended.code:
        raise typer.Exit(ended.code)


def calibrate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[REPLAY.jsonl|warmpool.db]...", help="Results of replays, or a history."),
    ] = None,
    *,
    probe: Annotated[str | None, typer.Option("--probe", metavar="URL", help="Measure this URL now.")] = None,
    starts: Annotated[int, typer.Option(min=0, max=1000, help="Probe: starts from zero.")] = 5,
    warm: Annotated[int, typer.Option(min=1, max=100_000, help="Probe: requests to a hot replica.")] = 36,
    company: Annotated[
        int, typer.Option(min=1, max=1000, help="Probe: so many at once in a second round; 1: none.")
    ] = 4,
    service: Service = None,
    kubeconfig: Kubeconfig = None,
    state: State = None,
    model: Model = None,
    dialect: AsDialect = None,
    key: Key = None,
    exact: Exact = False,
    timeout: Timeout = 300,
    least_warm: Annotated[
        int, typer.Option(min=1, help="Warm requests that a service time needs.")
    ] = calibrating.LEAST_WARM,
    least_starts: Annotated[
        int, typer.Option(min=1, help="Starts that a cold start needs.")
    ] = calibrating.LEAST_STARTS,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Probe: folder of what it measured.", show_default="build/replays/probe"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit service time and cold start to what was measured; prints the part of an experiment file as YAML."""
    named = files or []
    if not named and probe is None:
        raise typer.BadParameter("give results of a replay, a history of the controller, or --probe URL")
    ended = None
    if probe is not None:
        check_url(probe)
        folder = out or Path("build/replays/probe")
        plan = ReplayPlan(
            exchange=_exchange(probe, dialect, model, key, exact=exact, timeout_s=timeout),
            trace="probe",
            requests=(),
            arms=probe_arms(starts=starts, warm=warm, company=company),
        )
        ended = run(plan, Connection(service, kubeconfig, state), folder)
        named = [*named, folder / RESULTS]
    histories = [path for path in named if path.suffix in _HISTORIES]
    found = calibrating.calibrate_results(
        [read_results(path) for path in named if path not in histories],
        starts=cold_starts_of(histories, service),
        least_warm=least_warm,
        least_starts=least_starts,
    )
    lines = calibrating.comments(found)
    if as_json:
        typer.echo(json.dumps(calibrating.to_json(found), indent=2))
    else:
        typer.echo("".join(f"# {line}\n" for line in lines), nl=False)
        typer.echo(yaml.safe_dump(found.to_spec(), sort_keys=False, width=110), nl=False)
    for line in [*calibrating.missing(found, least_warm, least_starts), *(ended.problems if ended else ())]:
        typer.echo(line, err=True)
    if ended is not None and ended.code:
        raise typer.Exit(ended.code)


def _exchange(
    url: str, dialect: Dialect | None, model: str | None, key: str | None, *, exact: bool, timeout_s: float
) -> Exchange:
    return Exchange(
        url,
        dialect or dialect_of(url),
        model,
        exact=exact,
        timeout_s=timeout_s,
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
    )


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.jsonl", help="Results of a replay.")],
    second: Annotated[Path, typer.Argument(metavar="B.jsonl", help="Results of another one.")],
    *,
    seed: Annotated[int, typer.Option(min=0, help="Of the resampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print how two replays differ, arm by arm, with 95 % bootstrap intervals."""
    found = comparing.compare(read_results(first), read_results(second), seed=seed)
    if as_json:
        typer.echo(json.dumps([comparing.to_json(entry) for entry in found], indent=2))
    else:
        show_differences(found)
