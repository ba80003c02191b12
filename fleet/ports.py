"""The ports of a server: room for the relays that it may hold, and none that anybody else has at its addresses."""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from fleet.models import Server


def check_ports(server: "Server") -> Iterator[tuple[str, ValidationError]]:
    """What is wrong with a server's ports, each with the field that is to be changed.

    Numbers that are missing are their fields' business; with a range that ends before it begins nothing else is looked at.
    """
    reversed_ranges = [
        protocol
        for protocol, first, last in _ranges(server)
        if first is not None and last is not None and first > last
    ]
    for protocol in reversed_ranges:
        yield f"{protocol}_port_last", ValidationError(_("A port range ends before it begins."))
    if reversed_ranges:
        return
    yield from _check_room(server)
    if server.address and server.status != server.Status.RETIRED:
        for other in _neighbours(server):
            yield from _check_neighbour(server, other)


def _ranges(server: "Server") -> list[tuple[str, int | None, int | None]]:
    return [
        ("tcp", server.tcp_port_first, server.tcp_port_last),
        ("udp", server.udp_port_first, server.udp_port_last),
    ]


def _lies_within(port: int | None, first: int | None, last: int | None) -> bool:
    return bool(port and first and last and first <= port <= last)


def _check_room(server: "Server") -> Iterator[tuple[str, ValidationError]]:
    ranges = [(first, last) for _protocol, first, last in _ranges(server) if first and last]
    if server.capacity is not None and len(ranges) == 2:
        ports = min(last - first + 1 for first, last in ranges)
        if server.capacity > ports:
            yield (
                "capacity",
                ValidationError(
                    _(
                        "The port ranges have room for %(ports)s relays only: each takes one TCP and one UDP port."
                    ),
                    params={"ports": ports},
                ),
            )
    if _lies_within(server.ssh_port, server.tcp_port_first, server.tcp_port_last):
        text = _("The SSH port lies within the TCP ports of relays; choose another range for these.")
        yield "ssh_port", ValidationError(text)


def _check_neighbour(server: "Server", other: "Server") -> Iterator[tuple[str, ValidationError]]:
    for protocol, first, last in _ranges(server):
        other_first, other_last = (
            getattr(other, f"{protocol}_port_first"),
            getattr(other, f"{protocol}_port_last"),
        )
        if first and last and first <= other_last and other_first <= last:
            yield (
                f"{protocol}_port_first",
                ValidationError(
                    _(
                        "The server “%(server)s” has the %(protocol)s ports %(first)s-%(last)s at this address; "
                        "choose others."
                    ),
                    params={
                        "server": other.name,
                        "protocol": protocol.upper(),
                        "first": other_first,
                        "last": other_last,
                    },
                ),
            )
    if _lies_within(other.ssh_port, server.tcp_port_first, server.tcp_port_last):
        yield (
            "tcp_port_first",
            ValidationError(
                _(
                    "The server “%(server)s” has its SSH port %(port)s at this address; choose other TCP ports."
                ),
                params={"server": other.name, "port": other.ssh_port},
            ),
        )
    if _lies_within(server.ssh_port, other.tcp_port_first, other.tcp_port_last):
        yield (
            "ssh_port",
            ValidationError(
                _("The SSH port lies within the TCP ports of the server “%(server)s” at this address."),
                params={"server": other.name},
            ),
        )


def _neighbours(server: "Server") -> list["Server"]:
    """The servers in use that share an address with this one.

    A private address is another machine's elsewhere, so it counts within a region only.
    """
    own = {server.address, server.listen_address}
    others = type(server).objects.exclude(pk=server.pk).exclude(status=server.Status.RETIRED)
    return [
        other
        for other in others.filter(Q(address__in=own) | Q(bind_address__in=own)).order_by("pk")
        if any(
            ip_address(shared).is_global
            or other.region_id == server.region_id
            or shared in {server.address, other.address}
            for shared in own & {other.address, other.listen_address}
        )
    ]
