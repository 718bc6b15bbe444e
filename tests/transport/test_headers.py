"""The fields that a proxy passes on, and those that end at each hop (RFC 9110, 7.6.1)."""

import pytest

from transport.headers import HOP_BY_HOP, connection_options, end_to_end, requested_upgrade


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP | {b"Proxy-Connection", b"TE", b"Keep-Alive"}))
def test_hop_by_hop_fields_end_here_in_any_spelling(name: bytes):
    assert end_to_end([(name, b"x"), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


@pytest.mark.parametrize(
    "connection",
    [
        [(b"connection", b"close, X-Private")],
        [(b"Connection", b"keep-alive"), (b"CONNECTION", b"x-private")],
        [(b"connection", b" x-private ,,")],
    ],
)
def test_fields_that_connection_names_end_here(connection: list[tuple[bytes, bytes]]):
    fields = [(b"X-Private", b"1"), *connection, (b"x-private", b"2"), (b"X-Public", b"3")]
    assert end_to_end(fields) == [(b"X-Public", b"3")]


def test_connection_cannot_take_away_the_length_or_the_host():
    fields = [(b"connection", b"content-length, host"), (b"content-length", b"5"), (b"host", b"a")]
    assert end_to_end(fields) == [(b"content-length", b"5"), (b"host", b"a")]


def test_order_spelling_and_repeated_fields_stay():
    fields = [(b"Set-Cookie", b"a=1"), (b"Via", b"x"), (b"Set-Cookie", b"b=2")]
    assert end_to_end(fields) == fields
    assert end_to_end(fields, without=frozenset({b"via"})) == [fields[0], fields[2]]


def test_connection_options_of_all_fields_in_lower_case():
    assert connection_options([(b"Connection", b"Upgrade, X-A"), (b"connection", b"close")]) == {
        b"upgrade",
        b"x-a",
        b"close",
    }


@pytest.mark.parametrize(
    ("fields", "protocol"),
    [
        ([(b"connection", b"Upgrade"), (b"upgrade", b"websocket")], b"websocket"),
        ([(b"connection", b"keep-alive, upgrade"), (b"Upgrade", b"WebSocket")], b"WebSocket"),
        ([(b"upgrade", b"websocket")], None),
        ([(b"connection", b"upgrade")], None),
        ([(b"connection", b"Upgrade, HTTP2-Settings"), (b"upgrade", b"h2c")], None),
    ],
)
def test_an_upgrade_needs_both_fields(fields: list[tuple[bytes, bytes]], protocol: bytes | None):
    assert requested_upgrade(fields) == protocol
