"""Node keys as people paste them: one, a list of them, or what `tailscale status --json` prints. Pure."""

import json
import re
from dataclasses import dataclass
from typing import Any

# Longer input is no list of devices.
LONGEST_INPUT = 1_000_000
_NAME_LENGTH = 63

_KEY = re.compile(r"(?<![0-9A-Za-z:])(?:nodekey:)?([0-9a-fA-F]{64})(?![0-9A-Za-z])")
_OTHER_KEY = re.compile(r"\b(mkey|discokey|privkey|tskey-[a-z]+|chalpub|nlpub)[:-]", re.IGNORECASE)


class NoNodeKey(ValueError):
    """A text names no node key, or is too long to be looked at."""


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

    Takes the JSON of `tailscale status --json` (this device and its peers; ipnstate.Status of tailscale.com) and of `headscale
    nodes list --output json`, or lines that carry one node key each with anything beside it as the name. Devices of others that
    such a status lists are left out. Raises `NoNodeKey`.
    """
    if len(text) > LONGEST_INPUT:
        raise NoNodeKey("too long")
    try:
        found = _from_json(json.loads(text)) if text.lstrip()[:1] in ("{", "[") else _from_lines(text)
    except (ValueError, RecursionError) as error:
        raise NoNodeKey("neither JSON nor lines") from error
    devices: dict[str, NewDevice] = {}
    for device in found:
        if int(device.node_key, 16) and (device.node_key not in devices or not devices[device.node_key].name):
            devices[device.node_key] = device
    if not devices:
        raise NoNodeKey("no node key")
    return list(devices.values())


def has_other_key(text: str) -> bool:
    """Whether a text carries a key of Tailscale's of another kind (a machine's, an auth key): a likely mix-up."""
    return _OTHER_KEY.search(text) is not None


def _from_lines(text: str) -> list[NewDevice]:
    devices = []
    for line in text.splitlines():
        matches = list(_KEY.finditer(line))
        # A name belongs to a line with one key only.
        name = clean_name(_KEY.sub(" ", line)) if len(matches) == 1 else ""
        devices += [NewDevice(match[1].lower(), name) for match in matches]
    return devices


def _from_json(value: Any, domain: str = "") -> list[NewDevice]:
    """Every object that has a node key, wherever it stands; names by the words of tailscale and headscale.

    `domain` is the tailnet's, as the object around says it.
    """
    devices = []
    if isinstance(value, dict):
        domain = _text(value, "MagicDNSSuffix") or domain
        if _is_of_others(value, domain):
            return []
        key = value.get("PublicKey") or value.get("node_key") or value.get("nodeKey") or value.get("NodeKey")
        if isinstance(key, str) and (match := _KEY.fullmatch(key)):
            names = (value.get(name) for name in ("HostName", "given_name", "givenName", "name", "Name"))
            name = next((name for name in names if isinstance(name, str) and name), "")
            devices.append(NewDevice(match[1].lower(), clean_name(name)))
        parts = list(value.values())
    else:
        parts = value if isinstance(value, list) else []
    for part in parts:
        if isinstance(part, dict | list):
            devices += _from_json(part, domain)
    return devices


def _is_of_others(value: dict[str, Any], domain: str) -> bool:
    """Whether a peer (ipnstate.PeerStatus) belongs to somebody else.

    `ShareeNode` are the devices of people with whom one was shared. A device that was shared into the tailnet keeps the name of its
    own tailnet, and Mullvad's exit nodes have a domain of theirs. With Headscale names say nothing: they may carry a user.
    """
    name = _text(value, "DNSName")
    is_elsewhere = name.endswith(".ts.net.") and bool(domain) and not name.endswith(f".{domain}.")
    return value.get("ShareeNode") is True or name.endswith(".mullvad.ts.net.") or is_elsewhere


def _text(value: dict[str, Any], name: str) -> str:
    text = value.get(name)
    return text.lower() if isinstance(text, str) else ""


def clean_name(name: str) -> str:
    """A device's name as it is kept: what can be printed, without the marks around it, 63 characters at most."""
    printable = "".join(character if character.isprintable() else " " for character in name)
    return " ".join(printable.split()).strip("\"'#,;:|- ")[:_NAME_LENGTH].strip()
