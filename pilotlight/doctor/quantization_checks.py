"""Checks of `quantization` and `dtype` against the checkpoint and the GPU (pure)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pilotlight.agent import Agent
from pilotlight.compile_gpu import gpu_of, gpu_types
from pilotlight.doctor.findings import Finding, Level, Location, Unknown, ok, unknown
from pilotlight.doctor.model_memory import ModelFacts
from pilotlight.doctor.quantization import (
    COMPRESSED,
    Scheme,
    family,
    needs_sixteen_bits,
    online,
    only_loads,
    scheme_of,
    takes_any,
)
from pilotlight.stage_spec import Kind, StageSpec

_BFLOAT16_CAPABILITY = 8.0
_CHECK = "quantization"


def quantization(
    agents: Sequence[Agent], models: Mapping[str, ModelFacts | Unknown], *, gpus: bool = True
) -> Iterator[Finding]:
    """Whether vLLM takes each checkpoint with the options of its stage, on the GPUs that it may get.

    Args:
        agents: as checked.
        models: by their address, those that were looked for.
        gpus: whether models get the GPUs that the files name.
    """
    for position, agent in enumerate(agents):
        for index, stage in enumerate(agent.spec.stages):
            if stage.kind is Kind.GENERATE and stage.engine_type == "vllm":
                model = models.get(agent.spec.model_uri(stage) or "")
                yield from _Stage(position, agent, index, stage, gpus=gpus).findings(model)


def names_quantization(stage: StageSpec) -> bool:
    """Whether the stage's options say how its model is quantized."""
    return _text(stage.engine.args if stage.engine else {}, "quantization") is not None


def _text(args: Mapping[str, Any], name: str) -> str | None:
    value = args.get(name)
    return value if isinstance(value, str) and value not in {"", "auto", "none"} else None


class _Stage:
    """One stage with vLLM."""

    def __init__(self, position: int, agent: Agent, index: int, stage: StageSpec, *, gpus: bool) -> None:
        self._position = position
        self._args = stage.engine.args if stage.engine else {}
        self._options: Location = ("spec", "stages", index, "engine", "args")
        self._gpu: Location = ("spec", "gpu") if stage.gpu is None else ("spec", "stages", index, "gpu")
        self._name = agent.service_name(stage)
        gpu, types = gpu_of(agent, stage), gpu_types(agent)
        self._capabilities = {
            name: types[name].compute_capability
            for name in (gpu.type if gpu is not None else ())
            if gpus and name in types
        }

    def findings(self, model: ModelFacts | Unknown | None) -> Iterator[Finding]:
        said = _text(self._args, "quantization")
        method = None if said is None else family(said)
        if isinstance(model, ModelFacts):
            scheme = scheme_of(model.config)
            found = list(self._against_checkpoint(said, method, scheme))
            if not found and scheme is None and method is not None:
                scheme = online(method)
            if scheme is not None:
                found += self._dtype(scheme.method)
                found += self._against_gpus(scheme, in_file=said is not None)
            found += self._bfloat16()
            if scheme is not None and not found:
                found = [ok(_CHECK, f"{self._name}: {scheme.text}")]
            yield from found
            return
        if method is not None:
            yield from self._dtype(method)
            if (scheme := online(method)) is not None:
                yield from self._against_gpus(scheme, in_file=True)
            if isinstance(model, Unknown):
                yield unknown(_CHECK, f"whether the model of {self._name} is {said}", model)
        yield from self._bfloat16()

    def _problem(self, level: Level, text: str, fix: str, field: Location) -> Finding:
        return Finding(level, _CHECK, f"{self._name}: {text}", fix, field, self._position)

    def _against_checkpoint(
        self, said: str | None, method: str | None, scheme: Scheme | None
    ) -> Iterator[Finding]:
        if said is None or method is None or takes_any(method):
            return
        field = (*self._options, "quantization")
        if scheme is None and only_loads(method):
            own_file = method != COMPRESSED
            also = (
                ": vLLM looks for a file of its own beside it, such as quant_config.json" if own_file else ""
            )
            yield self._problem(
                Level.WARNING if own_file else Level.ERROR,
                f"quantization: {said} loads a checkpoint that is quantized so, and config.json of this one "
                f"has no quantization_config{also}",
                "leave quantization out; `pilotlight model quantize` makes a checkpoint that needs no option",
                field,
            )
        elif scheme is not None and scheme.method != method:
            yield self._problem(
                Level.ERROR,
                f"quantization: {said}, but the checkpoint is {scheme.text}",
                "leave quantization out: vLLM takes it from the checkpoint",
                field,
            )

    def _dtype(self, method: str) -> Iterator[Finding]:
        dtype = _text(self._args, "dtype")
        if dtype in {"float32", "float"} and needs_sixteen_bits(method):
            yield self._problem(
                Level.ERROR,
                f"dtype: {dtype}, but {method} computes in float16 or bfloat16",
                "leave dtype out",
                (*self._options, "dtype"),
            )

    def _bfloat16(self) -> Iterator[Finding]:
        if _text(self._args, "dtype") != "bfloat16":
            return
        for name, capability in self._capabilities.items():
            if capability is not None and capability < _BFLOAT16_CAPABILITY:
                yield self._problem(
                    Level.ERROR,
                    f"dtype: bfloat16, but {name} has compute capability {capability:g}, "
                    f"{_BFLOAT16_CAPABILITY:g} is needed",
                    "dtype: float16, or another gpu.type",
                    (*self._options, "dtype"),
                )

    def _against_gpus(self, scheme: Scheme, *, in_file: bool) -> Iterator[Finding]:
        field = (*self._options, "quantization") if in_file else (*self._gpu, "type")
        least, full = scheme.least_capability, scheme.full_capability
        for name, capability in self._capabilities.items():
            if capability is None:
                continue
            if least is not None and capability < least:
                yield self._problem(
                    Level.ERROR,
                    f"{scheme.text} needs compute capability {least:g}, and {name} has {capability:g}",
                    "another gpu.type, or a checkpoint in another scheme",
                    field,
                )
            elif full is not None and capability < full:
                yield self._problem(
                    Level.WARNING,
                    f"{scheme.text} on {name} (compute capability {capability:g}): vLLM keeps the weights "
                    f"in 8 bits and computes in 16, which saves memory but no time; from {full:g} on it "
                    "computes in 8",
                    "w8a8-int8 is computed in 8 bits from 7.5 (`pilotlight model quantize`)",
                    field,
                )
