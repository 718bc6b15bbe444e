"""Host, Origin and token of a request."""

import pytest

from knative.local.apiserver.api.access import AccessRules
from knative.local.apiserver.errors import ApiError
from transport.authority import is_loopback

RULES = AccessRules("secret", hosts=["Box.example", "0.0.0.0"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8081",
        "localhost.",
        "a.default.localhost:80",
        "127.0.0.1:8081",
        "192.168.1.5",
        "[::1]:8081",
        "[::1]",
        "box.example:8081",
    ],
)
def test_names_and_addresses_of_this_machine_are_allowed(host):
    RULES.check_host(host, None)
    RULES.check_host("localhost", f"http://{host}")


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8081", "localhost.evil.example", "evil-localhost", "127.0.0.1.nip.io"],
)
def test_other_names_are_forbidden_as_host_and_as_origin(host):
    with pytest.raises(ApiError, match="is not a name of this API") as refused:
        RULES.check_host(host, None)
    assert refused.value.code == 403
    with pytest.raises(ApiError, match="are not allowed"):
        RULES.check_host("localhost", f"https://{host}")


def test_the_origin_of_a_sandboxed_page_is_forbidden():
    with pytest.raises(ApiError, match="'null'"):
        RULES.check_host("localhost", "null")


@pytest.mark.parametrize("given", ["", "secret", "Bearer", "Bearer wrong", "Bearer secre", "Bearer sécret"])
def test_a_wrong_token_is_401(given):
    with pytest.raises(ApiError) as refused:
        RULES.check_token(given)
    assert refused.value.code == 401


def test_the_token_is_accepted():
    RULES.check_token("Bearer secret")


@pytest.mark.parametrize(
    ("address", "found"), [("127.0.0.1", True), ("::1", True), ("10.0.0.1", False), ("testclient", False)]
)
def test_loopback_addresses(address, found):
    assert is_loopback(address) is found
