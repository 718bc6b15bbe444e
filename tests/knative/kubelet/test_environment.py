"""A container's command and environment, without running it."""

import base64
import sys

import pytest

from knative.local.kubelet import environment
from knative.local.kubelet.environment import ContainerConfigError, ValueSources

CONFIG_MAPS = {"cm": {"metadata": {"name": "cm"}, "data": {"A": "1", "not a name": "2"}}}
SECRETS = {
    "s": {"metadata": {"name": "s"}, "data": {"KEY": base64.b64encode(b"word").decode(), "BAD": "%%"}},
}
SOURCES = ValueSources(CONFIG_MAPS.get, SECRETS.get)


def built(**container):
    return environment.build(container, {"BASE": "b", "PORT": "1"}, SOURCES)


def reference(kind, name, key=None, **more):
    value = {"name": name, **more} | ({"key": key} if key else {})
    return {"name": "X", "valueFrom": {kind: value}}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(BASE)", "b"),
        ("$$(BASE)", "$(BASE)"),
        ("$(NONE)", "$(NONE)"),
        ("a $$ b", "a $ b"),
        ("$BASE", "$BASE"),
    ],
)
def test_references_are_expanded_as_in_kubernetes(text, expanded):
    assert environment.expand(text, {"BASE": "b"}) == expanded


def test_later_variables_override_earlier_ones_and_may_refer_to_them():
    env = [{"name": "BASE", "value": "own"}, {"name": "X", "value": "$(BASE)-$(PORT)"}]
    assert built(env=env) == {"BASE": "own", "PORT": "1", "X": "own-1"}


def test_all_keys_that_are_names_come_with_their_prefix():
    assert built(envFrom=[{"configMapRef": {"name": "cm"}, "prefix": "P_"}])["P_A"] == "1"
    assert len(built(envFrom=[{"configMapRef": {"name": "cm"}}])) == 3


def test_secrets_are_decoded():
    assert built(env=[reference("secretKeyRef", "s", "KEY")])["X"] == "word"


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"env": [reference("configMapKeyRef", "none", "A")]}, 'configmap "none" not found'),
        ({"env": [reference("configMapKeyRef", "cm", "B")]}, "couldn't find key B in Configmap cm"),
        ({"env": [reference("secretKeyRef", "s", "BAD")]}, "key BAD of Secret s is not text in base64"),
        (
            {"env": [reference("nothing", "s")]},
            'env "X": valueFrom must have configMapKeyRef or secretKeyRef',
        ),
        ({"envFrom": [{"secretRef": {"name": "none"}}]}, 'secret "none" not found'),
    ],
)
def test_what_is_missing_is_named(container, words):
    with pytest.raises(ContainerConfigError) as refused:
        built(**container)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    "container",
    [
        {"env": [reference("configMapKeyRef", "none", "A", optional=True)]},
        {"env": [reference("secretKeyRef", "s", "NONE", optional=True)]},
        {"envFrom": [{"configMapRef": {"name": "none", "optional": True}}]},
    ],
)
def test_what_is_optional_may_be_missing(container):
    assert built(**container) == {"BASE": "b", "PORT": "1"}


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"command": ["python3", "x"]}, [sys.executable, "x"]),
        ({"command": ["/bin/sh"], "args": ["-c", "$(PORT)"]}, ["/bin/sh", "-c", "1"]),
        ({"args": ["serve"]}, ["serve"]),
        ({}, []),
    ],
)
def test_the_command_and_its_arguments(container, words):
    assert environment.command(container, {"PORT": "1"}) == words
