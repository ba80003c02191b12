"""Which addresses count as one: a person with IPv6 has a whole /64 of them."""

import ipaddress

_IPV6_PREFIX = 64


def network_of(ip: str | None) -> str:
    """The IPv4 address itself, or the IPv6 address' network as `2001:db8:1:2::/64`; "" for none."""
    if not ip:
        return ""
    # Nearly all are IPv4, and this stands in the way of each question of a relay.
    if ":" not in ip:
        return ip
    try:
        return str(ipaddress.IPv6Network((ip.partition("%")[0], _IPV6_PREFIX), strict=False))
    except ValueError:
        return ip[:43]
