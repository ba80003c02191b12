"""Whether a relay's STUN tells clients their true address.

A client gives the address that STUN told it to its peers, so a wrong one takes the direct path from every pair of devices. It is
wrong where something on the relay's host takes the datagrams in and sends them on as its own: Docker's rootless mode, an Engine
that may not set up iptables, any other userland path. The relay then sees the address of the container's bridge.
"""

import ipaddress
from collections.abc import Callable, Iterable

# Addresses that nobody comes from who reached a public one through the internet: RFC 1122, 1918, 3927, 6598, 4193, 4291.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::/127",
        "fc00::/7",
        "fe80::/10",
    )
]
# Docker's networks begin here (its default address pools).
_DOCKER = ipaddress.ip_network("172.16.0.0/12")
# So many other relays must have seen the same address before they outvote what one relay says.
WITNESSES = 2


def plain(address: str) -> str:
    """An address in its shortest form, IPv4 written as IPv6 as IPv4. Raises ValueError when it is none."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_public(address: str) -> bool:
    """Whether an address can be that of somebody on the internet."""
    parsed = ipaddress.ip_address(plain(address))
    return not any(parsed.version == network.version and parsed in network for network in _NOT_PUBLIC)


def is_beside(*, seen: str, host: str, at: str = "") -> bool:
    """Whether we seem to come to `host` from a Docker network on that same machine: its relays cannot be judged from there.

    `seen` is the address that the host's SSH server sees of us. Docker leads such a container to published ports through its own
    proxy, which is the way of nobody else. Through the internet nobody arrives with such an address. In a private network (`at`
    is then the host's own address on that way) people may use such addresses too, but none ends as the first of Docker's networks
    does, which is the host's own in each of them.
    """
    if at and not (ipaddress.ip_address(plain(at)) in _DOCKER and plain(at).endswith(".0.1")):
        return False
    return ipaddress.ip_address(seen) in _DOCKER and ipaddress.ip_address(host) not in _DOCKER


def find_fault(
    *,
    mapped: str,
    host: str,
    expected: str | None,
    own: str = "",
    also: Iterable[str] = (),
    ask_others: Callable[[], list[str]] = list,
) -> str:
    """Judge the address `mapped` that the relay reached at `host` told us: "" when it may be ours, else a cause of the probe.

    `expected` is what the server itself sees of us on another connection to `host` (None: not known), `own` the address of the socket
    that asked ("": not known): a relay in the panel's own network sees that one, private or not. `also` are addresses that
    other servers saw of us, or this one earlier or on another way. A panel behind NAT may have several, one for each connection,
    so a public address that nobody has seen yet is wrong only where others, asked now (`ask_others`), agree on what the server sees.
    """
    mapped = plain(mapped)
    if mapped in {plain(address) for address in (expected, own, *also) if address}:
        return ""
    if is_public(host) and not is_public(mapped):
        return "mapped_private"
    if expected is None:
        return ""
    if not is_public(host) or mapped == plain(host):
        return "mapped_differs"
    if not is_public(expected):
        return ""  # something stands before the server's SSH that does not stand before its relays
    told = [plain(address) for address in ask_others()]
    agree = len(told) >= WITNESSES and set(told) == {plain(expected)}
    return "mapped_differs" if agree else ""
