"""Where the parts of a Service end up in its object."""

from knative.render import Autoscaling, Container, service

TEMPLATE = ("spec", "template")


def rendered(**options):
    given = {
        "name": "a",
        "namespace": "team",
        "container": Container("example.com/x"),
        "autoscaling": Autoscaling(),
    }
    return service(**given | options)


def test_a_service_that_sets_nothing_has_only_its_image():
    assert rendered() == {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "a", "namespace": "team"},
        "spec": {"template": {"metadata": {}, "spec": {"containers": [{"image": "example.com/x"}]}}},
    }


def test_the_container_is_written_as_kubernetes_writes_it():
    container = Container(
        "example.com/x",
        command=["python"],
        args=["-m", "functions"],
        env={"A": "1"},
        env_from=[{"secretRef": {"name": "s"}}],
        requests={"cpu": "500m"},
        limits={"nvidia.com/gpu": "1"},
        ready_path="/ready",
    )
    (found,) = rendered(container=container)["spec"]["template"]["spec"]["containers"]
    assert found == {
        "image": "example.com/x",
        "command": ["python"],
        "args": ["-m", "functions"],
        "env": [{"name": "A", "value": "1"}],
        "envFrom": [{"secretRef": {"name": "s"}}],
        "resources": {"requests": {"cpu": "500m"}, "limits": {"nvidia.com/gpu": "1"}},
        "readinessProbe": {"httpGet": {"path": "/ready"}},
    }


def test_autoscaling_annotations_are_strings_on_the_template():
    scaling = Autoscaling(min_scale=0, target=2.5, window="90s")
    obj = rendered(autoscaling=scaling, progress_deadline="20m")
    assert obj["spec"]["template"]["metadata"]["annotations"] == {
        "autoscaling.knative.dev/min-scale": "0",
        "autoscaling.knative.dev/target": "2.5",
        "autoscaling.knative.dev/window": "90s",
        "serving.knative.dev/progress-deadline": "20m",
    }
    assert "annotations" not in obj["metadata"]


def test_labels_are_on_service_and_template():
    obj = rendered(labels={"pilotlight.dev/agent": "x"})
    assert obj["metadata"]["labels"] == {"pilotlight.dev/agent": "x"}
    assert obj["spec"]["template"]["metadata"]["labels"] == {"pilotlight.dev/agent": "x"}


def test_a_long_timeout_is_one_for_the_first_byte_too():
    short, long = (rendered(timeout_seconds=seconds)["spec"]["template"]["spec"] for seconds in (300, 301))
    assert "responseStartTimeoutSeconds" not in short
    assert (long["timeoutSeconds"], long["responseStartTimeoutSeconds"]) == (301, 301)
