"""How servers are reached, as people give it: which addresses cannot be a machine's, what SSH connects to, Docker's socket."""

import ipaddress
import re

import idna
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

# By the IANA registries of special-purpose addresses (RFC 6890) and of multicast addresses. Private ones, loopback and those for
# tests and documentation may lead to a machine in somebody's own network, so they stay.
_EVERY = [ipaddress.ip_network(text) for text in ("0.0.0.0/8", "::/128")]
_LINK = [ipaddress.ip_network(text) for text in ("169.254.0.0/16", "fe80::/10")]
_NO_MACHINE = [ipaddress.ip_network(text) for text in ("224.0.0.0/4", "240.0.0.0/4", "ff00::/8", "100::/64")]
_SENTENCES = [
    (_EVERY, _("%(address)s stands for every address of a machine; give the one that others reach.")),
    (
        _LINK,
        _("%(address)s is link-local and leads nowhere beyond its own cable; give one that others reach."),
    ),
    (
        _NO_MACHINE,
        _("%(address)s is no machine's address: it is a multicast, broadcast or reserved one."),
    ),
]
# Underscores are in no host name of the internet, but in many of local networks.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# What resolvers read as numbers: 127.1 and 0x7f.1 are 127.0.0.1 to them.
_NUMBER = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")


def check_address(text: str) -> None:
    """Raises `ValidationError` for an IP address that cannot be a machine's, with the reason. `text` is a well-formed one."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    for networks, sentence in _SENTENCES:
        if any(address.version == network.version and address in network for network in networks):
            raise ValidationError(sentence, params={"address": text})


def read_host(text: str) -> str:
    """The host name or IP address that SSH connects to, in its common form: lower case, other scripts in ASCII (UTS 46), IPv6 without
    brackets, no dot at the end. "" stays "".

    Raises `ValidationError` for an address that is no machine's and for all else, as what also has a user, a port or a scheme; it
    says where these go.
    """
    typed = text.strip()
    if not typed:
        return ""
    is_bracketed = typed.startswith("[") and typed.endswith("]")
    address = _parse(typed[1:-1] if is_bracketed else typed)
    if address is not None:
        check_address(str(address))
        return str(address)
    name = typed if typed.isascii() else _to_ascii(typed)
    name = name.lower().removesuffix(".")
    is_name = len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))
    if not is_name or _NUMBER.fullmatch(name):
        raise ValidationError(
            _(
                "“%(host)s” is no host name or IP address. Give that alone: the user goes into the SSH credential, the port into "
                "“SSH port” (on the command line --user and --ssh-port)."
            ),
            params={"host": typed},
        )
    return name


def read_socket_path(text: str) -> str:
    """The path of a Docker socket as people write it: `unix://` is taken off. Raises `ValidationError` for anything else."""
    path = text.strip().removeprefix("unix://")
    if not re.fullmatch(r"/[^\x00-\x1f\x7f]*[^/\x00-\x1f\x7f]", path):
        raise ValidationError(
            _(
                "The Docker socket is the absolute path of a file on the server, for example /var/run/docker.sock."
            )
        )
    return path


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address.scope_id and not address.is_link_local:
            return None  # an interface of this machine; a link-local one is refused as such
    return address


def _to_ascii(name: str) -> str:
    """A host name of another script; what is none stays as it is."""
    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        return name
