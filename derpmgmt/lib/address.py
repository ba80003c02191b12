"""Addresses: the client's, behind as many proxies as the operator trusts, and those that lead nowhere else."""

import ipaddress
import re
import time
from functools import lru_cache

from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


# A proxy that is not counted is noted once in so many seconds by each process.
_NOTED, _NOTED_SECONDS = "address:proxy-unknown", 60.0
_noted_at = -_NOTED_SECONDS
# What proxies put around an address: `IP:PORT`, `[v6]`, `[v6]:PORT`, a zone (`%eth0`), quotes.
_WRAPPED = re.compile(r"\[([^\[\]]+)\](?::\d*)?|([0-9.]+):\d*")


@lru_cache(maxsize=1024)  # each request looks at its own, and most come from few
def _parse(text: str) -> IPAddress | None:
    """The address in an entry of X-Forwarded-For or in a host's place; None where there is none ("unknown")."""
    text = text.strip().strip("\"'").strip()
    if match := _WRAPPED.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip())
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def client_ip(request: HttpRequest) -> str:
    """The client's IP address in its shortest form; IPv4 written as IPv6 becomes IPv4 again.

    `settings.TRUSTED_PROXIES` says how many proxies stand in front. Each appends the peer it saw to X-Forwarded-For, so the
    client is that many places from its end; what stands further left was written by the client and is not believed. With
    0, or when that place holds no address, the peer of the connection counts. "0.0.0.0" when there is none (a unix socket
    without a trusted proxy).
    """
    peer = _parse(request.META.get("REMOTE_ADDR", ""))
    address = peer
    if settings.TRUSTED_PROXIES > 0:
        hops = [hop for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
        if len(hops) >= settings.TRUSTED_PROXIES:
            address = _parse(hops[-settings.TRUSTED_PROXIES]) or peer
    return str(address or "0.0.0.0")  # noqa: S104


def note_proxy(request: HttpRequest) -> None:
    """Remember for a day that a proxy on this machine or its network passes requests on although none is trusted."""
    global _noted_at
    if settings.TRUSTED_PROXIES or "HTTP_X_FORWARDED_FOR" not in request.META:
        return
    peer = _parse(request.META.get("REMOTE_ADDR", ""))
    # From anywhere else it is written by whoever likes to.
    if (peer is None or peer.is_private) and time.monotonic() - _noted_at > _NOTED_SECONDS:
        _noted_at = time.monotonic()
        cache.set(_NOTED, True, 86400)


def is_proxy_unknown(request: HttpRequest) -> bool:
    """Whether this request, or another of the last day, came through a proxy that `settings.TRUSTED_PROXIES` does not count."""
    if settings.TRUSTED_PROXIES:
        return False
    return "HTTP_X_FORWARDED_FOR" in request.META or is_proxy_noted()


def is_proxy_noted() -> bool:
    """Whether a request of the last day came through a proxy that is not counted, as `note_proxy` remembers it."""
    return not settings.TRUSTED_PROXIES and bool(cache.get(_NOTED))


def client_network(request: HttpRequest) -> str:
    """What limits count by: the IPv4 address, or the /64 of an IPv6 address (one household has a whole one)."""
    address = ipaddress.ip_address(client_ip(request))
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def wide_network(request: HttpRequest) -> str:
    """The /24 of an IPv4 address or the /48 of an IPv6 address: what one person may easily have many addresses of."""
    address = ipaddress.ip_address(client_ip(request))
    length = 48 if isinstance(address, ipaddress.IPv6Address) else 24
    return str(ipaddress.ip_network((address, length), strict=False))


def is_loopback(host: str) -> bool:
    """Whether a host name or address means the machine itself, wherever it is used."""
    address = _parse(host)
    return address.is_loopback if address else host.lower().rstrip(".") == "localhost"
