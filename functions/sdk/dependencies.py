"""What a function asks for besides its arguments, read from its signature (pure).

    db: Annotated[Connection, PerReplica(open_database)]     made once at the start, closed at the drain
    user: Annotated[User, PerRequest(find_user)]             made for each request, closed with its answer

A provider is a function or a generator with one `yield`, asynchronous or not, and may ask for dependencies of
its own. What lives with the replica cannot ask for what lives with a request.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin

from functions.sdk.values import Call, Config

Lifetime = Literal["replica", "request"]


@dataclass(frozen=True, slots=True)
class PerReplica:
    """Made once when the replica starts, before it is ready; closed at its drain."""

    provider: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class PerRequest:
    """Made for each request; closed before its answer is sent."""

    provider: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Dependency:
    """A provider, for how long its value lives, and what it asks for itself."""

    provider: Callable[..., Any]
    lifetime: Lifetime
    needs: "Needs"


@dataclass(frozen=True, slots=True)
class Needs:
    """The parameters of a function that are given to it, by name.

    Attributes:
        dependencies: from providers.
        calls: those that get the `Call`.
        configs: those that get the settings.
    """

    dependencies: dict[str, Dependency] = field(default_factory=dict)
    calls: tuple[str, ...] = ()
    configs: dict[str, type[Config]] = field(default_factory=dict)

    def all_configs(self) -> set[type[Config]]:
        """The settings' classes, those of providers included."""
        found = set(self.configs.values())
        for dependency in self.dependencies.values():
            found |= dependency.needs.all_configs()
        return found


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters.

    Attributes:
        needs: what is given to it.
        arguments: the others, in order.
        returns: the annotation of the result; `inspect.Signature.empty` without one.
    """

    needs: Needs
    arguments: tuple[inspect.Parameter, ...]
    returns: Any


def read_signature(function: Callable[..., Any], role: str) -> Signature:
    """The parameters of a stage or a tool.

    Args:
        function: decorated by the author.
        role: `tool` or `stage`, for errors.

    Raises:
        TypeError: a parameter that cannot be filled; the message names function and parameter.
    """
    return _read(function, f"@{role} {name_of(function)}", within=())


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function, or of the class of a callable."""
    return getattr(function, "__name__", type(function).__name__)


def _read(function: Callable[..., Any], where: str, *, within: tuple[Callable[..., Any], ...]) -> Signature:
    signature = _signature(function, where)
    needs, arguments = Needs(), []
    calls: list[str] = []
    for parameter in signature.parameters.values():
        annotation, marker = _marker(parameter.annotation)
        if marker is not None:
            needs.dependencies[parameter.name] = _dependency(marker, where, within)
        elif annotation is Call:
            calls.append(parameter.name)
        elif isinstance(annotation, type) and issubclass(annotation, Config):
            needs.configs[parameter.name] = annotation
        else:
            arguments.append(parameter)
            continue
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY and (
            parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD
        ):
            raise TypeError(f"{where}: {parameter} is given by name, must not be positional-only or variadic")
    found = Needs(needs.dependencies, tuple(calls), needs.configs)
    return Signature(found, tuple(arguments), signature.return_annotation)


def _signature(function: Callable[..., Any], where: str) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except ValueError:
        return inspect.Signature()  # a builtin that does not say: it is called without arguments
    except NameError as error:
        raise TypeError(f"{where}: an annotation names {error.name!r}, which is not known here") from error


def _marker(annotation: Any) -> tuple[Any, PerReplica | PerRequest | None]:
    """An annotation without its `Annotated`, and the dependency that it asks for."""
    if get_origin(annotation) is not Annotated:
        return annotation, None
    inner, *extras = get_args(annotation)
    return inner, next((extra for extra in extras if isinstance(extra, PerReplica | PerRequest)), None)


def _dependency(
    marker: PerReplica | PerRequest, where: str, within: tuple[Callable[..., Any], ...]
) -> Dependency:
    provider = marker.provider
    lifetime: Lifetime = "replica" if isinstance(marker, PerReplica) else "request"
    name = name_of(provider) if callable(provider) else repr(provider)
    below = f"{where}: {type(marker).__name__}({name})"
    if not callable(provider):
        raise TypeError(f"{below}: must be a function that makes the value")
    if provider in within:
        raise TypeError(f"{below}: depends on itself")
    signature = _read(provider, below, within=(*within, provider))
    missing = [p.name for p in signature.arguments if p.default is p.empty and not _is_variadic(p)]
    if missing:
        raise TypeError(f"{below}: parameter {missing[0]!r} must have a default or be a dependency")
    if lifetime == "replica":
        if signature.needs.calls:
            raise TypeError(
                f"{below}: parameter {signature.needs.calls[0]!r} is of one request; use PerRequest"
            )
        for parameter, needed in signature.needs.dependencies.items():
            if needed.lifetime == "request":
                raise TypeError(
                    f"{below}: parameter {parameter!r} lives with one request, must be PerReplica as well"
                )
    return Dependency(provider, lifetime, signature.needs)


def _is_variadic(parameter: inspect.Parameter) -> bool:
    return parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
