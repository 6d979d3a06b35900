"""Names of the server: a page whose name was made to resolve to this machine uses another one."""

import pytest

from seg.errors import UserError
from seg.serve.hosts import allowed_hosts, is_allowed, is_loopback


@pytest.mark.parametrize(
    "host", ["", "localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:8000", "[::1]:80", "10.1.2.3"]
)
def test_a_server_on_loopback_answers_to_its_names_and_to_addresses(host):
    for bound in ("127.0.0.1", "::1", "localhost", "127.0.0.9"):
        assert is_loopback(bound) and is_allowed(host, allowed_hosts(bound, []))


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]", ":80"]
)
def test_a_stranger_is_not_let_in_by_a_name_that_resolves_to_loopback(host):
    assert not is_allowed(host, allowed_hosts("127.0.0.1", []))
    assert is_allowed(host, allowed_hosts("0.0.0.0", []))  # whose names are not known, and which has keys


def test_names_that_are_allowed_hold_on_every_address():
    for bound in ("127.0.0.1", "0.0.0.0", "box"):
        hosts = allowed_hosts(bound, ["Name.Example.org"])
        assert is_allowed("name.example.org:443", hosts) and not is_allowed("example.org", hosts)
        assert not is_loopback(bound) or bound == "127.0.0.1"
    assert is_allowed("box", allowed_hosts("box", ["name.example.org"]))


@pytest.mark.parametrize("name", ["", "https://name.example.org", "name.example.org:443", "a b"])
def test_a_name_with_more_than_a_host_is_refused(name):
    with pytest.raises(UserError, match="--allowed-host .*: expected a name without scheme and port"):
        allowed_hosts("127.0.0.1", [name])
