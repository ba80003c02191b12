"""One POST to an address that a stranger named, which must not reach what only the panel can reach.

The name is resolved once, every address found has to be public, and the connection goes to exactly what was checked. No
redirect is followed, no proxy asked, and all of it has one deadline and one measure of bytes. The address may carry a secret:
it stands in no error and no log.
"""

import http.client
import io
import re
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

import certifi
from django.conf import settings
from django.db.models import Q

from containers.derp.client import open_tcp
from fleet.models import Server

LONGEST_URL = 300
MOST_BODY_BYTES = 4 * 1024
_MOST_ANSWER_BYTES = 16 * 1024  # with its headers
_MOST_TRIED = 3  # of the addresses that a name has
# Look-ups that one process has under way, however long strangers' name servers make them last.
_LOOK_UPS_AT_ONCE = 8
# Other ports of the fleet may be open to the panel alone.
_FLEET_PORTS = {80, 443}
# The panel's own names are looked up again after so many seconds, and get so many to be found.
_OWN_NAMES_AGAIN, _OWN_NAMES_SECONDS = 300, 0.3

_PRINTABLE = re.compile(r"[!-\[\]-~]+")
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f:.]{2,45}")
_ROUTED = IPv6Network("2000::/3")
# Global by their numbers, but they lead elsewhere (tunnels into IPv4), nowhere, or to a cloud's own services.
_NOT_PUBLIC_6 = [IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NOT_PUBLIC_4 = [IPv4Network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")]


class Refused(Exception):
    """Why there is no answer: a slug. Never holds the address."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, repr=False)
class Target:
    """What was read from an address that may be asked."""

    is_secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"


def post(url: str, body: bytes, *, deadline: float) -> tuple[int, bytes]:
    """POST JSON; status and the beginning of the body, at most one byte more than `MOST_BODY_BYTES`.

    Ends by `deadline` (time.monotonic), whatever the far side does. Raises `Refused` for everything that went wrong.
    """
    target = read_url(url)
    try:
        addresses = _resolve(target.host, deadline)
        _check_addresses(target.host, addresses, target.port)
        return _post(target, addresses, body, deadline)
    except ssl.SSLError:
        raise Refused("certificate") from None
    except OSError:
        raise Refused("no_answer") from None
    except http.client.HTTPException:
        raise Refused("not_http") from None


# What may be asked


def read_url(url: str) -> Target:
    """The parts of an address; raises `Refused` for one that is not asked, whatever it leads to."""
    if len(url) > LONGEST_URL:
        raise Refused("too_long")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("not_url") from None
    if parts.scheme not in {"http", "https"}:
        raise Refused("scheme")
    if "@" in parts.netloc:
        raise Refused("credentials")
    host = (parts.hostname or "").removesuffix(".")
    if not _PRINTABLE.fullmatch(url) or not _HOST.fullmatch(host):
        raise Refused("not_url")
    is_secure = parts.scheme == "https"
    if port is None:
        port = 443 if is_secure else 80
    if port not in {80, 443} and port < 1024:
        raise Refused("port")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(is_secure, host, port, path)


def _check_addresses(host: str, addresses: list[str], port: int) -> None:
    """Refuse what a stranger must not reach through the panel: one bad address among good ones spoils them all."""
    if not all(map(_is_public, addresses)) or any(map(_is_of_this_machine, addresses)):
        raise Refused("internal")
    if {host, *addresses} & _panel_hosts(int(time.monotonic() // _OWN_NAMES_AGAIN)):
        raise Refused("internal")
    named = Q(address__in=addresses) | Q(bind_address__in=addresses) | Q(ssh_host__in=[host, *addresses])
    ssh_ports = set(Server.objects.filter(named).values_list("ssh_port", flat=True))
    if ssh_ports and port not in _FLEET_PORTS - ssh_ports:
        raise Refused("internal")


def _is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, by its numbers."""
    if "%" in address:
        return False
    ip = ip_address(address)
    if ip.version == 6:
        is_odd = ip not in _ROUTED or any(ip in network for network in _NOT_PUBLIC_6)
    else:
        is_odd = any(ip in network for network in _NOT_PUBLIC_4)
    return ip.is_global and not (is_odd or ip.is_multicast or ip.is_reserved)


def _is_of_this_machine(address: str) -> bool:
    """Whether an address is one of this machine's own: only those can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as attempt:
            attempt.bind((address, 0))
    except OSError:
        return False
    return True


@lru_cache(maxsize=1)
def _panel_hosts(_period: int) -> frozenset[str]:
    """The panel's own names and their addresses, read again in every period."""
    names = {urlsplit(url).hostname or "" for url in (settings.PUBLIC_URL, settings.RELAY_URL)}
    found = set(names)
    for name in names:
        try:
            found.update(_resolve(name, time.monotonic() + _OWN_NAMES_SECONDS))
        except Refused:
            continue
    return frozenset(found)


# The network

_lock = threading.Lock()
_look_ups: dict[str, "Future[list[str]]"] = {}


def _resolve(host: str, deadline: float) -> list[str]:
    """The addresses of a host, those of IPv4 first. The system's resolver knows no time limit, so it has a thread."""
    with _lock:
        future = _look_ups.get(host)
        if future is None:
            if len(_look_ups) >= _LOOK_UPS_AT_ONCE:
                raise Refused("busy")
            future = _look_ups[host] = Future()
            threading.Thread(target=_look_up, args=(host, future), daemon=True).start()
    try:
        found = future.result(timeout=_left(deadline))
    except (OSError, UnicodeError):
        raise Refused("unresolved") from None
    return sorted(found, key=lambda address: ":" in address)


def _look_up(host: str, future: "Future[list[str]]") -> None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        future.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
    except Exception as error:
        future.set_exception(error)
    finally:
        with _lock:
            del _look_ups[host]


def _post(target: Target, addresses: list[str], body: bytes, deadline: float) -> tuple[int, bytes]:
    wire = _Wire(_connect(target, addresses, deadline), deadline)
    try:
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = wire
        headers = {
            "Host": target.authority,
            "User-Agent": "private-derp",
            "Content-Type": "application/json",
            "Connection": "close",
        }
        connection.request("POST", target.path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(MOST_BODY_BYTES + 1)
    finally:
        wire.connection.close()


def _connect(target: Target, addresses: list[str], deadline: float) -> socket.socket:
    """Connect to the first address that answers, each with its share of the time. Raises OSError."""
    tried = addresses[:_MOST_TRIED]
    for number, address in enumerate(tried):
        try:
            connection = open_tcp(address, target.port, timeout=_left(deadline) / (len(tried) - number))
            break
        except OSError:
            if address == tried[-1]:
                raise
    else:
        raise OSError("no address")
    if not target.is_secure:
        return connection
    try:
        connection.settimeout(_left(deadline))
        return _tls().wrap_socket(connection, server_hostname=target.host)
    except BaseException:
        connection.close()
        raise


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certifi.where())


class _Wire(io.RawIOBase):
    """A connection as `http.client` wants it, with one deadline and one measure of bytes for all that is read from it."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.connection = connection
        self._deadline = deadline
        self._bytes_left = _MOST_ANSWER_BYTES

    def sendall(self, data: bytes) -> None:
        self.connection.settimeout(_left(self._deadline))
        self.connection.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def close(self) -> None:
        """`http.client` closes before it has read all; who opened the connection closes it."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._bytes_left <= 0:
            raise Refused("too_large")
        self.connection.settimeout(_left(self._deadline))
        count = self.connection.recv_into(memoryview(buffer)[: self._bytes_left])
        self._bytes_left -= count
        return count


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time limit is over")
    return left
