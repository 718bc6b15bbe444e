"""Packets between a replica and its template process."""

from typing import get_args

import pytest

from functions.engines.vllm import template_protocol
from functions.engines.vllm.template_protocol import (
    EndEngine,
    EngineExited,
    EngineForked,
    ErrorReported,
    ImportArchitecture,
    ImportFailed,
    ImportFinished,
    LoadingFinished,
    LoadingStarted,
    ServerReady,
    StartEngine,
    WeightsRead,
)

PACKETS = [
    StartEngine(1, ("--model", "ü"), "/run/api.sock", "/run", "/cache"),
    ImportArchitecture("/models/m"),
    EndEngine(1, graceful=True),
    ImportFinished(7.5, 3000, "0.33.0", "cuda", "H200"),
    ImportFailed("no module"),
    EngineForked(1),
    LoadingStarted(1),
    WeightsRead(1, 2, 3),
    LoadingFinished(1, 0.5),
    ServerReady(1, 2, ("late.module",)),
    ErrorReported(1, "EngineCore", "out of memory"),
    EngineExited(1, -9),
]


def test_every_kind_is_in_the_table():
    assert {type(packet) for packet in PACKETS} == set(get_args(template_protocol.Packet))


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: type(packet).__name__)
def test_a_packet_is_the_same_on_the_other_end(packet):
    assert template_protocol.decode(template_protocol.encode(packet)) == packet


@pytest.mark.parametrize("packet", [ImportFailed("x" * 10**6), ErrorReported(1, "server", "ü" * 10**6)])
def test_a_long_cause_is_cut_to_fit_a_packet(packet):
    data = template_protocol.encode(packet)
    assert len(data) <= template_protocol.MAX_PACKET_BYTES
    assert packet.cause.startswith(template_protocol.decode(data).cause)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"kind": "Other"}', b'{"kind": "EngineForked"}'])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"packet|Expecting"):
        template_protocol.decode(data)
