"""Where the panel listens: whoever reaches the address it was given is answered, by IPv4 and IPv6."""

import socket
from typing import Any

import pytest

from derpmgmt import panel
from tests.panel.running import free_port

needs_both = pytest.mark.skipif(
    not socket.has_dualstack_ipv6(), reason="this system has no sockets for IPv4 and IPv6 at once"
)


def reached(settings: Any, bind: str, address: str) -> str:
    """The peer that a connection to `address` comes from, as the listener on `bind` sees it; "" when it reaches nobody."""
    settings.BIND, settings.PORT = bind, free_port()
    with panel._listen() as listener:
        listener.settimeout(10)
        try:
            client = socket.create_connection((address, settings.PORT), timeout=10)
        except OSError:
            return ""
        with client, listener.accept()[0] as accepted:
            return str(accepted.getpeername()[0])


@needs_both
@pytest.mark.parametrize(
    ("bind", "by_ipv4", "by_ipv6"),
    [
        ("::", True, True),
        ("0.0.0.0", True, False),  # noqa: S104
        ("127.0.0.1", True, False),
        ("::1", False, True),
    ],
)
def test_every_address_is_listened_on_where_all_are_meant(
    settings: Any, bind: str, by_ipv4: bool, by_ipv6: bool
) -> None:
    assert bool(reached(settings, bind, "127.0.0.1")) == by_ipv4
    assert bool(reached(settings, bind, "::1")) == by_ipv6
