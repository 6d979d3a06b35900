"""The names that clients may call the server by.

A stranger's page can make its own name resolve to 127.0.0.1 (DNS rebinding). The browser then takes this server for the
page's own, and the page may read every answer. The header Host gives it away: it still holds the stranger's name.
"""

import ipaddress
from collections.abc import Sequence

from seg.errors import UserError
from seg.untrusted import escaped


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return host == "localhost" or _is_address(host) and ipaddress.ip_address(host).is_loopback


def allowed_hosts(bound: str, named: Sequence[str]) -> tuple[str, ...]:
    """Return the names that are accepted besides addresses; empty: all of them.

    A server on loopback accepts `localhost` and the names in `named`. The names of another one are not known: it
    accepts all of them, unless some are named.

    Args:
        bound: address or name that the server listens on.
        named: by `--allowed-host`.

    Raises:
        UserError: one of them is not the name of a host.
    """
    for name in named:
        if not name or set(name) & set(":/ "):
            expected = "expected a name without scheme and port, such as name.example.org"
            raise UserError(f"--allowed-host {escaped(name)}: {expected}")
    if not named and not is_loopback(bound):
        return ()
    return "localhost", *(name.lower() for name in (bound, *named))


def is_allowed(host: str, hosts: Sequence[str]) -> bool:
    """Return whether the header Host, as `name:port`, holds an address or one of the names; no names allow all."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return not hosts or not host or _is_address(name) or name.lower().removesuffix(".") in hosts


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
