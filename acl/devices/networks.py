"""Which addresses count as one: a person with IPv6 has a whole /64 of them."""

import ipaddress

_IPV6_PREFIX = 64
# What providers give to one customer at most who asks for nothing special: of it they have as many networks as they like.
_IPV6_SITE_PREFIX = 48


def network_of(ip: str | None) -> str:
    """The IPv4 address itself, or the IPv6 address' network as `2001:db8:1:2::/64`; "" for none."""
    return _network(ip, _IPV6_PREFIX)


def site_of(ip: str | None) -> str:
    """The IPv4 address itself, or the IPv6 network that one customer of a provider may have, as `2001:db8:1::/48`; "" for none."""
    return _network(ip, _IPV6_SITE_PREFIX)


def _network(ip: str | None, ipv6_prefix: int) -> str:
    if not ip:
        return ""
    # Nearly all are IPv4, and this stands in the way of each question of a relay.
    if ":" not in ip:
        return ip
    try:
        return str(ipaddress.IPv6Network((ip.partition("%")[0], ipv6_prefix), strict=False))
    except ValueError:
        return ip[:43]
