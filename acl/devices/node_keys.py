"""Node keys as people paste them: one, a list of them, or what `tailscale status --json` prints. Pure."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from acl.devices import pasted
from derpmgmt.lib.lines import one_line

# Longer input is no list of devices, ...
LONGEST_INPUT = 1_000_000
# ... and of so many at once nobody reads which they are.
MOST_DEVICES = 2000
# Lists and objects within each other; lists of devices have three.
_DEEPEST = 30
_NAME_LENGTH = 63
_KEY_LENGTH = 64

_KEY = re.compile(
    r"(?:(?<![0-9a-z])nodekey[:：]|(?<![0-9a-z:：]))([0-9a-f]{64})(?![0-9a-z])", re.IGNORECASE | re.ASCII
)
# Keys of Tailscale's of other kinds, as its programs write them and as people do.
_LABELLED_KEY = r"(?<![0-9a-z])(?:m(?:achine)?|disco|priv(?:ate)?)[ _-]?key[\"']?\s*(?:[:：=]\s*)?[\"']?[0-9a-f]{64}(?![0-9a-z])"
_OTHER_HEX_KEY = re.compile(_LABELLED_KEY, re.IGNORECASE | re.ASCII)
_OTHER_KEY = re.compile(
    rf"\b(?:mkey|discokey|privkey|tskey-[a-z]+|chalpub|nlpub)[:-]|{_LABELLED_KEY}", re.IGNORECASE | re.ASCII
)
# A field of a program's output that was read by another program: YAML, PowerShell's objects, a quoted list.
_FIELD = re.compile(
    r"\bPublicKey[\"']?\s*[:=]|\bnode_?key[\"']?\s*[:=]\s*[\"']?nodekey:", re.IGNORECASE | re.ASCII
)
_KEYS_LABEL = re.compile(r"(?<![0-9a-z])node[ _-]?key(?![0-9a-z])", re.IGNORECASE | re.ASCII)

# What Headscale and the APIs call a node key.
_NODE_KEYS = ("node_key", "nodeKey", "nodekey", "NodeKey")


class NoNodeKey(ValueError):
    """A text names no node key."""


class TooLong(NoNodeKey):
    """A text is longer, or has more in it, than is looked at at once."""


class NotAList(NoNodeKey):
    """A text has JSON or YAML that is cut off, or is no list of devices that says whose they are."""


@dataclass(frozen=True)
class NewDevice:
    """A device that somebody names: its node key (64 lowercase hex digits) and its name, "" when not known."""

    node_key: str
    name: str = ""


def parse_node_key(text: str) -> str:
    """The 64 lowercase hex digits of `nodekey:<64 hex>`; the prefix may be missing. Raises `NoNodeKey`."""
    match = _KEY.fullmatch(text.strip())
    if match is None or not int(match[1], 16):
        raise NoNodeKey("not a node key")
    return match[1].lower()


def parse_devices(text: str) -> list[NewDevice]:
    """The devices that a pasted text names, each once, in their order.

    Takes what these print, whatever a terminal puts around it: `tailscale status --json` (this device and the peers of its own
    network; ipnstate.Status of tailscale.com), `headscale nodes list` with `--output` json, json-line or yaml, the device lists of
    both programs' APIs; or lines that carry one node key each with anything beside it as the name. Devices of others that a status
    lists are left out: those that were shared, Mullvad's exit nodes, the nodes of Tailscale's Funnel.

    Raises `NoNodeKey`; as `NotAList` for JSON or YAML that is cut off, or that does not say whose devices it names, as `TooLong` for more
    than `LONGEST_INPUT` characters or `MOST_DEVICES` devices.
    """
    if len(text) > LONGEST_INPUT:
        raise TooLong("too long")
    text = pasted.clean(text)
    try:
        values = pasted.find_json(text) or pasted.find_yaml(text)
    except pasted.NotWhole as error:
        raise NotAList(str(error)) from error
    except pasted.TooLong as error:
        raise TooLong(str(error)) from error
    found = [device for value in values for device in _from_value(value)] if values else _from_lines(text)
    devices: dict[str, _Found] = {}
    for device in found:
        if int(device.node_key, 16) and not (device.node_key in devices and devices[device.node_key].names):
            devices[device.node_key] = device
    if not devices:
        raise NoNodeKey("no node key")
    if len(devices) > MOST_DEVICES:
        raise TooLong("too many devices")
    return _named(list(devices.values()))


def has_other_key(text: str) -> bool:
    """Whether a text carries a key of Tailscale's of another kind (a machine's, an auth key): a likely mix-up."""
    return _OTHER_KEY.search(text) is not None


class _Found(NamedTuple):
    """A node key (64 lowercase hex digits) and what its device may be called, the best name first."""

    node_key: str
    names: tuple[str, ...]


def _named(found: list[_Found]) -> list[NewDevice]:
    """Each by its first name; where several have the same, as phones and laptops of one make do, by a later one that differs."""
    first = [next(iter(device.names), "") for device in found]
    times = Counter(name.casefold() for name in first)
    return [
        NewDevice(device.node_key, device.names[-1] if name and times[name.casefold()] > 1 else name)
        for device, name in zip(found, first, strict=True)
    ]


def _names(*names: Any) -> tuple[str, ...]:
    """Of what programs say, what is a name: phones call themselves `localhost`."""
    cleaned = [clean_name(name) for name in names if isinstance(name, str)]
    return tuple(name for name in cleaned if name and name.casefold() != "localhost")


def _from_lines(text: str) -> Iterator[_Found]:
    """The devices of a list that a person made. Raises `NotAList` for what a program printed about devices one does not know whose."""
    if _FIELD.search(text):
        raise NotAList("fields of a program's output")
    for line in _OTHER_HEX_KEY.sub(" ", text).splitlines():
        if len(line) < _KEY_LENGTH:
            continue
        matches = list(_KEY.finditer(line))
        # A name belongs to a line with one key only.
        name = clean_name(_KEYS_LABEL.sub(" ", _KEY.sub(" ", line))) if len(matches) == 1 else ""
        names = (name,) if any(character.isalnum() for character in name) else ()
        yield from (_Found(match[1].lower(), names) for match in matches)


def _from_value(value: Any, depth: int = 1) -> Iterator[_Found]:
    """The devices of one JSON or YAML value. Raises `NotAList` for one that does not say whose they are."""
    if depth > _DEEPEST:
        raise NotAList("lists within lists")
    if not isinstance(value, dict):
        for one in value if isinstance(value, list) else []:
            yield from _from_value(one, depth + 1)
    elif "Self" in value or "Peer" in value:
        yield from _from_status(value)
    elif lists := [
        value[name] for name in ("nodes", "node", "devices") if isinstance(value.get(name), list | dict)
    ]:
        for one in lists:
            yield from _from_value(one, depth + 1)
    elif node_key := _key_of(value, *_NODE_KEYS):
        # A device that was shared into the network, as Tailscale's API says it.
        if value.get("isExternal") is not True:
            given = (value.get(name) for name in ("given_name", "givenName", "givenname", "hostname"))
            yield _Found(node_key, _names(*given, _label(value.get("name"))))
    elif any(value.get(name) for name in _NODE_KEYS):
        raise NotAList("a node key that is cut off")
    elif "PublicKey" in value or any(
        isinstance(part, dict) and "PublicKey" in part for part in value.values()
    ):
        raise NotAList("peers without the device that has them")


def _from_status(status: dict[str, Any]) -> Iterator[_Found]:
    """The device itself and the peers of its own network, of an ipnstate.Status."""
    this, peers = status.get("Self"), status.get("Peer")
    if not isinstance(this, dict) or not isinstance(peers, dict | None):
        raise NotAList("a status without the device itself")
    domain = _text(status, "MagicDNSSuffix") or _text(this, "DNSName").partition(".")[2]
    domain = domain.strip(".")
    for key, peer in (peers or {}).items():
        # Each stands under its own key: where the two differ, something was printed into one of them.
        said = _text(peer, "PublicKey") if isinstance(peer, dict) else ""
        if said and (not _KEY.fullmatch(said) or (key.startswith("nodekey:") and key.lower() != said)):
            raise NotAList("a node key that is cut off")
    own = [peer for peer in (peers or {}).values() if isinstance(peer, dict) and _is_own(peer, this, domain)]
    for node in (this, *own):
        if node_key := _key_of(node, "PublicKey"):
            yield _Found(node_key, _names(node.get("HostName"), _label(node.get("DNSName"))))


def _is_own(peer: dict[str, Any], this: dict[str, Any], domain: str) -> bool:
    """Whether a peer (ipnstate.PeerStatus) is one of the network's own devices.

    `ShareeNode` are the devices of people with whom one was shared, and the nodes of Tailscale's Funnel. A device that was shared
    into the network keeps the name of its own, and Mullvad's exit nodes have a domain of theirs; one without a name is its
    user's. With Headscale, where nothing is shared, names say nothing: they may carry a user.
    """
    name, tags = _text(peer, "DNSName").strip("."), peer.get("Tags")
    tags = tags if isinstance(tags, list) else []
    if peer.get("ShareeNode") is True or name.endswith(".mullvad.ts.net") or "tag:mullvad-exit-node" in tags:
        return False
    if _text(peer, "HostName") == "funnel-ingress-node" or ("tag:ingress" in tags and not name):
        return False
    if name and domain:
        is_tailscale = f"{domain}.".endswith(".ts.net.") or name.endswith(".ts.net")
        return name.endswith(f".{domain}") or not is_tailscale
    users = peer.get("UserID"), this.get("UserID")
    return None in users or users[0] == users[1]


def _key_of(value: dict[str, Any], *names: str) -> str:
    """The node key under the first of `names` that has one, "" for none."""
    keys = (value.get(name) for name in names)
    matches = (_KEY.fullmatch(key.strip()) for key in keys if isinstance(key, str))
    return next((match[1].lower() for match in matches if match), "")


def _label(name: Any) -> str:
    """The first part of a domain name."""
    return name.partition(".")[0] if isinstance(name, str) else ""


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    return text.lower() if isinstance(text, str) else ""


def clean_name(name: str) -> str:
    """A device's name as it is kept: what can be printed, without the marks around it, 63 characters at most."""
    return one_line(name).strip("\"'#,;:|-=，；：、 ")[:_NAME_LENGTH].strip()
