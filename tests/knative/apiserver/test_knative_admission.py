"""Defaults of Revisions, traffic targets, field errors and settings of admission."""

from typing import Any

import pytest

from knative.autoscaling.annotations import FieldError
from knative.config_maps import ConfigError
from knative.local.apiserver.admission import field_errors, traffic, unsupported
from knative.local.apiserver.admission.revision_defaults import fill_revision_spec
from knative.local.apiserver.admission.serving_config import (
    RevisionDefaults,
    ServingConfig,
    parse_defaults,
    parse_flags,
)

LATEST = {"latestRevision": True, "percent": 100}


@pytest.mark.parametrize(
    ("targets", "of_service", "text"),
    [
        ([LATEST], True, ""),
        (
            [
                {"latestRevision": True, "percent": 60},
                {"latestRevision": False, "revisionName": "a-1", "percent": 40},
            ],
            True,
            "",
        ),
        ([{**LATEST, "percent": 90}], True, "Traffic targets sum to 90, want 100: traffic"),
        (
            [{**LATEST, "percent": 101}, {"revisionName": "a-1", "percent": -1}],
            True,
            "expected 0 <= -1 <= 100: traffic[1].percent\nexpected 0 <= 101 <= 100: traffic[0].percent",
        ),
        (
            [{**LATEST, "configurationName": "a"}],
            True,
            "must not set the field(s): traffic[0].configurationName",
        ),
        (
            [LATEST],
            False,
            "expected exactly one, got neither: traffic[0].configurationName, traffic[0].revisionName",
        ),
        (
            [{"configurationName": "a", "revisionName": "b", "percent": 100}],
            False,
            "expected exactly one, got both: traffic[0].configurationName, traffic[0].revisionName",
        ),
        ([{"configurationName": "a", "percent": 100}], False, ""),
        ([{**LATEST, "revisionName": "a-1"}], True, "invalid value: true: traffic[0].latestRevision"),
        ([{**LATEST, "url": "http://x"}], True, "must not set the field(s): traffic[0].url"),
        ([{**LATEST, "tag": "A"}], True, f"{field_errors.NOT_LABEL_1035}: traffic[0].tag"),
        (
            [{**LATEST, "percent": 50, "tag": "t"}, {**LATEST, "percent": 50, "tag": "t"}],
            True,
            'Multiple definitions for "t": traffic[0].tag, traffic[1].tag',
        ),
        ([], True, "Traffic targets sum to 0, want 100: traffic"),
    ],
)
def test_traffic_targets(targets, of_service, text):
    assert field_errors.text(traffic.traffic_errors(targets, of_service=of_service)) == text


def test_targets_without_a_revision_follow_the_newest():
    targets: list[dict[str, Any]] = [{"percent": 1}, {"revisionName": "a-1"}, {"latestRevision": False}]
    traffic.fill_traffic(targets)
    assert [target["latestRevision"] for target in targets] == [True, False, False]


@pytest.mark.parametrize(
    ("spec", "config", "filled"),
    [
        (
            {"containers": [{"image": "x"}]},
            ServingConfig(),
            {
                "timeoutSeconds": 300,
                "containerConcurrency": 0,
                "enableServiceLinks": False,
                "containers": [
                    {
                        "image": "x",
                        "name": "user-container",
                        "resources": {},
                        "readinessProbe": {"tcpSocket": {"port": 0}, "successThreshold": 1},
                    }
                ],
            },
        ),
        (  # a longer timeout keeps the default for the first byte
            {"timeoutSeconds": 600, "containers": []},
            ServingConfig(),
            {
                "timeoutSeconds": 600,
                "responseStartTimeoutSeconds": 300,
                "containerConcurrency": 0,
                "enableServiceLinks": False,
                "containers": [],
            },
        ),
        (
            {
                "containers": [
                    {"readinessProbe": {"httpGet": {"path": "/"}}, "resources": {"limits": {"cpu": "2"}}}
                ]
            },
            ServingConfig(
                defaults=RevisionDefaults(
                    timeout_s=60,
                    idle_timeout_s=20,
                    concurrency=7,
                    service_links=None,
                    container_name="{{.Name}}-main",
                    requests={"cpu": "250m"},
                    limits={"cpu": "1", "memory": "1Gi"},
                )
            ),
            {
                "timeoutSeconds": 60,
                "idleTimeoutSeconds": 20,
                "containerConcurrency": 7,
                "containers": [
                    {
                        "name": "owner-main",
                        "readinessProbe": {"httpGet": {"path": "/", "port": 0}, "successThreshold": 1},
                        "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "2", "memory": "1Gi"}},
                    }
                ],
            },
        ),
    ],
)
def test_defaults_of_a_revision(spec, config, filled):
    fill_revision_spec(spec, config, {"name": "owner"})
    assert spec == filled


def test_containers_get_names_of_their_own():
    spec: dict[str, Any] = {"containers": [{"ports": [{}]}, {}, {"name": "user-container-0"}]}
    fill_revision_spec(spec, ServingConfig(), {})
    names = [container["name"] for container in spec["containers"]]
    assert names == ["user-container-1", "user-container-2", "user-container-0"]
    assert [("readinessProbe" in container) for container in spec["containers"]] == [True, False, False]


@pytest.mark.parametrize("source", ["secret", "configMap", "projected"])
def test_mounts_of_settings_are_read_only(source):
    spec: dict[str, Any] = {
        "containers": [{"volumeMounts": [{"name": "v"}, {"name": "w"}]}],
        "volumes": [{"name": "v", source: {}}, {"name": "w", "emptyDir": {}}],
    }
    fill_revision_spec(spec, ServingConfig(), {})
    first, second = spec["containers"][0]["volumeMounts"]
    assert (first.get("readOnly"), second.get("readOnly")) == (True, None)


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        ([], ""),
        ([field_errors.missing("b", "a")], "missing field(s): a, b"),
        ([field_errors.missing("b"), field_errors.missing("a")], "missing field(s): a, b"),
        ([field_errors.invalid(True, "x", "why")], "invalid value: true: x\nwhy"),
        (
            [field_errors.out_of_bounds(5, 0, 1, "z"), field_errors.disallowed("y")],
            "expected 0 <= 5 <= 1: z\nmust not set the field(s): y",
        ),
        (field_errors.via("a", field_errors.via("[0]", [FieldError("m", ("", "b"))])), "m: a[0], a[0].b"),
    ],
)
def test_field_errors(errors, text):
    assert field_errors.text(errors) == text


def test_a_field_error_repeats_the_beginning_of_a_long_value():
    assert len(str(field_errors.invalid("x" * 100_000, "path"))) < 400


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"revision-timeout-seconds": "601"}, "cannot be greater than max-revision-timeout-seconds"),
        ({"revision-idle-timeout-seconds": "301"}, "revision-idle-timeout-seconds (301) cannot be greater"),
        ({"container-concurrency-max-limit": "0"}, "container-concurrency-max-limit"),
        ({"container-concurrency": "1001"}, "expected 0 <= 1001 <= 1000"),
        ({"container-name-template": "{{.Labels}}"}, "failed to parse"),
    ],
)
def test_defaults_that_knative_refuses(data, text):
    with pytest.raises(ConfigError) as refused:
        parse_defaults(data)
    assert text in str(refused.value)


def test_feature_flags():
    config = ServingConfig(flags=parse_flags({"kubernetes.podspec-affinity": "Enabled", "x": "perhaps"}))
    assert config.enabled("podspec-affinity")
    assert config.enabled("podspec-volumes-emptydir")
    assert not config.enabled("podspec-tolerations")
    assert "x" not in config.flags


@pytest.mark.parametrize(
    ("spec", "limits_cpu", "texts"),
    [
        ({"containers": [{"command": ["x"]}]}, True, []),
        ({"containers": [{"image": "x"}]}, True, ["set command"]),
        ({"containers": [{"command": ["x"], "ports": [{"name": "h2c"}]}]}, True, ["port h2c"]),
        ({"containers": [{"command": ["x"], "name": "c", "resources": {"limits": {"cpu": "1"}}}]}, True, []),
        (
            {"containers": [{"command": ["x"], "name": "c", "resources": {"limits": {"cpu": "1"}}}]},
            False,
            ["limits.cpu of c is not enforced"],
        ),
    ],
)
def test_warnings_of_what_this_machine_cannot_give(spec, limits_cpu, texts):
    found = list(unsupported.warnings(spec, limits_cpu=limits_cpu))
    assert len(found) == len(texts)
    assert all(text in warning for text, warning in zip(texts, found, strict=True))
