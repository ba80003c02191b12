"""What people paste to name their devices."""

import json

import pytest

from acl.devices.node_keys import (
    LONGEST_INPUT,
    NewDevice,
    NoNodeKey,
    has_other_key,
    parse_devices,
    parse_node_key,
)

A, B, C, D, E = (digits * 32 for digits in ("a1", "b2", "c3", "d4", "e5"))


@pytest.mark.parametrize(
    "text",
    [f"nodekey:{A}", A, f"  nodekey:{A}\n", f"nodekey:{A.upper()}"],
    ids=["full", "bare", "spaces", "upper"],
)
def test_a_node_key_is_read_with_and_without_its_prefix(text: str) -> None:
    assert parse_node_key(text) == A


@pytest.mark.parametrize(
    "text",
    ["", "nodekey:", f"nodekey:{A[:-1]}", f"nodekey:{A}0", f"mkey:{A}", f"nodekey:{'g' * 64}", f"nodekey:{'0' * 64}",
     f"nodekey:nodekey:{A}", f"nodekey:{A[:63]}１"],
)  # fmt: skip
def test_what_is_no_node_key_is_refused(text: str) -> None:
    with pytest.raises(NoNodeKey):
        parse_node_key(text)


def test_lines_carry_names_beside_the_keys() -> None:
    text = f"""
    # my devices
    nodekey:{A}  书房的 NAS
    laptop: nodekey:{B}
    nodekey:{A}, nodekey:{C}
    """
    assert parse_devices(text) == [NewDevice(A, "书房的 NAS"), NewDevice(B, "laptop"), NewDevice(C)]


def test_tailscale_status_names_this_device_and_its_peers() -> None:
    status = {
        "Version": "1.102.5",
        "Self": {"ID": "1", "PublicKey": f"nodekey:{A}", "HostName": "nas", "DNSName": "nas.example.ts.net."},
        "Peer": {
            f"nodekey:{B}": {"PublicKey": f"nodekey:{B}", "HostName": "手机"},
            f"nodekey:{C}": {"PublicKey": f"nodekey:{C}", "HostName": ""},
        },
        "User": {"1": {"LoginName": "a@example.com"}},
    }
    found = parse_devices(json.dumps(status, indent=2))
    assert found == [NewDevice(A, "nas"), NewDevice(B, "手机"), NewDevice(C)]


def test_devices_of_others_in_tailscale_status_are_left_out() -> None:
    """Those shared into the tailnet, those of people with whom a device was shared, and Mullvad's exit nodes."""
    own = "tail1234.ts.net"
    peers = [
        {"PublicKey": A, "HostName": "nas", "DNSName": f"nas.{own}.", "UserID": 1},
        {"PublicKey": B, "HostName": "shared-in", "DNSName": "box.tail9876.ts.net.", "UserID": 7},
        {"PublicKey": C, "HostName": "device-of-shared-to-user", "DNSName": "", "ShareeNode": True},
        {"PublicKey": D, "HostName": "us-nyc-wg-301", "DNSName": "us-nyc-wg-301.mullvad.ts.net.", "ExitNodeOption": True},
    ]  # fmt: skip
    status = {
        "Self": {"PublicKey": f"nodekey:{E}", "HostName": "laptop", "DNSName": f"laptop.{own}."},
        "MagicDNSSuffix": own,
        "CurrentTailnet": {"Name": "a@example.com", "MagicDNSSuffix": own, "MagicDNSEnabled": True},
        "Peer": {f"nodekey:{peer['PublicKey']}": peer | {"PublicKey": f"nodekey:{peer['PublicKey']}"} for peer in peers},
    }  # fmt: skip
    assert parse_devices(json.dumps(status)) == [NewDevice(E, "laptop"), NewDevice(A, "nas")]
    with pytest.raises(NoNodeKey):
        parse_devices(json.dumps(status["Peer"][f"nodekey:{D}"]))  # type: ignore[index]


def test_every_device_of_a_headscale_is_the_customers_own() -> None:
    """There a name may carry its user (host.user.example.com), so the domain tells nothing about the owner."""
    status = {
        "Self": {"PublicKey": f"nodekey:{A}", "HostName": "nas", "DNSName": "nas.anna.hs.example.com."},
        "MagicDNSSuffix": "anna.hs.example.com",
        "Peer": {"x": {"PublicKey": f"nodekey:{B}", "HostName": "pc", "DNSName": "pc.bert.hs.example.com."}},
    }
    assert [device.node_key for device in parse_devices(json.dumps(status))] == [A, B]


def test_headscales_list_of_nodes_is_understood() -> None:
    nodes = [
        {
            "id": 1,
            "node_key": f"nodekey:{A}",
            "given_name": "router",
            "name": "router-x",
            "machine_key": f"mkey:{B}",
        }
    ]
    assert parse_devices(json.dumps(nodes)) == [NewDevice(A, "router")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{",
        '{"Self": {}}',
        "[" * 100_000,
        '{"PublicKey": 7}',
        f"mkey:{A}",
        "nodekey:" + "0" * 64,
        "x" * (LONGEST_INPUT + 1),
    ],
    ids=["empty", "words", "broken", "no-key", "deep", "number", "machine", "zero", "huge"],
)
def test_a_text_without_a_node_key_is_refused(text: str) -> None:
    with pytest.raises(NoNodeKey):
        parse_devices(text)


def test_a_name_is_cleaned_and_shortened() -> None:
    [device] = parse_devices(f'"{"名" * 100}\x00\u202e" nodekey:{A}')
    assert device.name == "名" * 63
    [device] = parse_devices(f"nodekey:{A} a\tb\x07c")
    assert device.name == "a b c"


def test_keys_of_other_kinds_are_told_apart() -> None:
    assert has_other_key(f"mkey:{A}")
    assert has_other_key("tskey-auth-abc")
    assert not has_other_key(f"nodekey:{A}")
