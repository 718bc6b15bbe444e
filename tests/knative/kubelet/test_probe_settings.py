"""Probes as a container's specification describes them."""

import pytest

from knative.local.kubelet import probes
from knative.local.kubelet.probe_loop import ContainerProbes
from knative.local.kubelet.probes import Probe

SERVING = {"ports": [{"containerPort": 9000, "name": "http1"}]}


@pytest.mark.parametrize(
    ("spec", "probe"),
    [
        (None, None),
        ({}, None),
        ({"tcpSocket": {"port": 0}}, Probe("tcp", port=20001)),
        ({"tcpSocket": {"port": 9000}}, Probe("tcp", port=20001)),
        ({"tcpSocket": {"port": "http1"}}, Probe("tcp", port=20001)),
        ({"tcpSocket": {"port": 7}}, Probe("tcp", port=7)),
        ({"grpc": {"port": 7}}, Probe("tcp", port=7)),
        ({"httpGet": {"path": "ready"}}, Probe("http", port=20001, path="/ready")),
        (
            {"httpGet": {"path": "/r", "port": 8, "httpHeaders": [{"name": "A", "value": "b"}]}},
            Probe("http", port=8, path="/r", headers=(("A", "b"),)),
        ),
        ({"exec": {"command": ["true"]}}, Probe("exec", command=("true",))),
        (
            {"exec": {"command": ["x"]}, "periodSeconds": 7, "failureThreshold": 2, "initialDelaySeconds": 3},
            Probe("exec", command=("x",), period_s=7.0, failure_threshold=2, initial_delay_s=3.0),
        ),
    ],
)
def test_a_probe_has_kubernetes_defaults_and_the_port_of_the_process(spec, probe):
    assert probes.parse(spec, SERVING, 20001) == probe


def test_the_serving_containers_port_is_always_probed():
    found = ContainerProbes.of({}, SERVING, 20001, serves=True)
    assert found == ContainerProbes(None, Probe("tcp", 20001), None)
    assert ContainerProbes.of({}, SERVING, 20001, serves=False) == ContainerProbes(None, None, None)
