"""Addresses of the panel as operators write them, in the form in which browsers send them back (Host and Origin headers).

Browsers write a host's name in lower case and other scripts in ASCII (UTS 46), IPv6 in its shortest form within brackets, and leave out
the scheme's own port (WHATWG URL Standard, "host serializing" and "origin"). Django compares letter by letter.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import idna

from derpmgmt.lib.early import gettext as _

_PORTS = {"http": 80, "https": 443}
# What Django takes in a Host header (`django.http.request.host_validation_re`).
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True)
class PanelUrl:
    """A base address: `scheme`, `host` as it stands in a Host header (IPv6 in brackets), `port` (None: the scheme's own), `path`."""

    scheme: str
    host: str
    port: int | None
    path: str = ""

    @property
    def origin(self) -> str:
        """What browsers send in an Origin header."""
        return f"{self.scheme}://{self.host}{f':{self.port}' if self.port else ''}"

    def __str__(self) -> str:
        return self.origin + self.path


def read_url(text: str, *, may_have_path: bool = False) -> PanelUrl:
    """The address that `text` means; raises `ValueError` with a sentence for what no browser could come back by."""
    text = text.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(
            _(
                "its host or port cannot be read; an IPv6 address stands in brackets: http://[2001:db8::1]:8000"
            )
        ) from None
    if parts.scheme not in _PORTS or not parts.netloc:
        raise ValueError(_("it begins with http:// or https://"))
    if "@" in parts.netloc:
        raise ValueError(_("it holds no user and password"))
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError(_("it holds no ? and no #"))
    path = parts.path.rstrip("/")
    if path and not may_have_path:
        raise ValueError(
            _("the panel cannot be served below a path (%(path)s); give it a host name or a port of its own")
            % {"path": path}
        )
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(_("its port is a number from 1 to 65535"))
    if port == _PORTS[parts.scheme]:
        port = None
    host = read_host(parts.netloc.rpartition("@")[2])
    if host in {"0.0.0.0", "[::]"}:  # noqa: S104
        raise ValueError(
            _("%(name)s stands for every address of this machine; give one that others reach")
            % {"name": host}
        )
    return PanelUrl(parts.scheme, host, port, path)


def read_host(text: str) -> str:
    """A host name or address, with or without a port, as it stands in a Host header without its port; raises `ValueError`."""
    text = text.strip()
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or not re.fullmatch(r"(:\d*)?", rest):
            raise ValueError(_("an IPv6 address stands in brackets: [2001:db8::1]"))
        return _ipv6(inner)
    if text.count(":") > 1:
        return _ipv6(text)
    name = text.partition(":")[0].rstrip(".。．｡")
    if re.fullmatch(r"[0-9.]+|.*\.(0x[0-9a-f]*|[0-9]+)", name.lower()):
        # Browsers read 127.1 and 0x7f.1 as addresses too; written out, all agree.
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise ValueError(_("%(name)s is no IPv4 address of four numbers") % {"name": name}) from None
    try:
        name = idna.encode(name, uts46=True).decode() if not name.isascii() else name.lower()
    except idna.IDNAError:
        raise ValueError(_("%(name)s is no host name") % {"name": name}) from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(
            _("“%(name)s” is no host name: letters, digits, hyphens and dots (no underscore)")
            % {"name": name}
        )
    return name


def _ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError(_("an IPv6 address with a zone is of use on one machine only"))
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(_("%(name)s is no IPv6 address") % {"name": text}) from None
    if mapped := address.ipv4_mapped:
        high, low = divmod(int(mapped), 65536)
        return f"[::ffff:{high:x}:{low:x}]"
    return f"[{address.compressed}]"
