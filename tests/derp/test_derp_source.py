"""Whether what STUN tells us may be our address: rewritten addresses are found, honest relays are not accused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import translation

from containers.derp import stun
from containers.derp.probe import explain, probe_relay
from containers.derp.source import find_fault, is_beside, is_public
from tests.derp.parts import PATIENCE, Relay

SERVER, PANEL, OTHER_EGRESS = "203.0.113.10", "198.51.100.7", "198.51.100.8"
LAN_SERVER, LAN_PANEL = "192.168.1.6", "192.168.1.5"
BRIDGE = "172.18.0.1"


def test_an_answer_as_derper_gives_it_to_ipv4_clients_is_an_ipv4_address() -> None:
    answer = stun.encode_answer(bytes(12), "::ffff:192.0.2.9", 40000)
    assert len(answer) == 44
    assert stun.decode_answer(answer, bytes(12)) == ("192.0.2.9", 40000)


@pytest.mark.parametrize(
    ("mapped", "host", "expected", "cause"),
    [
        # Rootless Docker and --iptables=false: the bridge's address, whatever the server sees of us.
        (BRIDGE, SERVER, PANEL, "mapped_private"),
        (BRIDGE, SERVER, None, "mapped_private"),
        (f"::ffff:{BRIDGE}", SERVER, None, "mapped_private"),
        ("10.0.2.2", SERVER, None, "mapped_private"),
        ("192.168.1.1", SERVER, None, "mapped_private"),
        ("127.0.0.1", SERVER, None, "mapped_private"),
        ("169.254.1.1", SERVER, None, "mapped_private"),
        ("100.64.0.9", SERVER, None, "mapped_private"),
        ("fd00::1", SERVER, None, "mapped_private"),
        # The server's own address, as where a proxy of the host sends the packets on.
        (SERVER, SERVER, PANEL, "mapped_differs"),
        # On a private network, and on loopback.
        (BRIDGE, LAN_SERVER, LAN_PANEL, "mapped_differs"),
        (BRIDGE, "127.77.0.1", "127.0.0.1", "mapped_differs"),
        # Nothing is wrong.
        (PANEL, SERVER, PANEL, ""),
        (f"::ffff:{PANEL}", SERVER, PANEL, ""),
        (PANEL, SERVER, f"::ffff:{PANEL}", ""),
        (PANEL, SERVER, None, ""),
        (LAN_PANEL, LAN_SERVER, LAN_PANEL, ""),
        ("127.0.0.1", "127.77.0.1", "127.0.0.1", ""),
        # A private network that is reached by another way than SSH takes: nobody can tell.
        (BRIDGE, LAN_SERVER, None, ""),
        # Panel and server behind one router, the public address led back inside: SSH sees the same.
        (LAN_PANEL, SERVER, LAN_PANEL, ""),
        # Something stands before the server's SSH only.
        (PANEL, SERVER, "10.0.0.1", ""),
        # The panel itself runs on the server, which sees its own address.
        (SERVER, SERVER, SERVER, ""),
    ],
)
def test_an_address_is_judged(mapped: str, host: str, expected: str | None, cause: str) -> None:
    assert find_fault(mapped=mapped, host=host, expected=expected) == cause


@pytest.mark.parametrize(
    ("also", "others", "cause"),
    [
        # Behind NAT each connection may leave by another address: known to another server, or seen by no other relay.
        ([OTHER_EGRESS], [PANEL, PANEL, PANEL], ""),
        ([], [PANEL, OTHER_EGRESS, PANEL], ""),
        ([], ["198.51.100.9", "198.51.100.9"], ""),
        ([], [PANEL], ""),
        ([], [], ""),
        # Everybody else agrees with the server.
        ([], [PANEL, PANEL], "mapped_differs"),
        ([], [f"::ffff:{PANEL}", PANEL, PANEL], "mapped_differs"),
    ],
)
def test_an_unknown_public_address_is_wrong_only_when_others_agree(
    also: list[str], others: list[str], cause: str
) -> None:
    found = find_fault(mapped=OTHER_EGRESS, host=SERVER, expected=PANEL, also=also, ask_others=lambda: others)
    assert found == cause


@pytest.mark.parametrize("expected", [None, PANEL, "10.0.0.1"])
@pytest.mark.parametrize(
    ("mapped", "own", "cause"),
    [
        # Panel and server in one private network: the relay truly sees the address from which it was asked.
        ("10.0.0.5", "10.0.0.5", ""),
        ("::ffff:10.0.0.5", "10.0.0.5", ""),
        # A private address that is nobody's who asked, though both are of one network.
        (BRIDGE, "10.0.0.5", "mapped_private"),
        ("10.0.0.6", "10.0.0.5", "mapped_private"),
        ("10.0.2.2", "", "mapped_private"),
    ],
)
def test_a_private_address_is_right_where_it_was_asked_from_it(
    mapped: str, own: str, cause: str, expected: str | None
) -> None:
    assert find_fault(mapped=mapped, host=SERVER, expected=expected, own=own) == cause


def test_a_panel_in_a_container_on_the_server_is_told_apart() -> None:
    assert is_beside(seen="172.17.0.3", host=SERVER)
    assert not is_beside(seen=PANEL, host=SERVER)
    assert not is_beside(seen=LAN_PANEL, host=LAN_SERVER)
    assert not is_beside(seen="172.16.5.4", host="172.16.5.9")


@pytest.mark.parametrize(
    ("seen", "at", "is_so"),
    [
        ("172.17.0.3", "172.17.0.1", True),
        ("172.19.0.2", "::ffff:172.17.0.1", True),
        # A provider's private network in the same range: no machine has its first address.
        ("172.31.5.5", "172.31.6.6", False),
        ("172.31.5.5", "172.31.6.1", False),
        ("10.0.0.5", "10.0.0.1", False),
    ],
)
def test_a_private_way_to_the_server_may_come_from_a_container_on_it(seen: str, at: str, is_so: bool) -> None:
    assert is_beside(seen=seen, host=SERVER, at=at) is is_so


def test_addresses_for_documentation_count_as_public() -> None:
    assert is_public("203.0.113.10")
    assert is_public("2001:db8::1")
    assert not is_public("::1")
    assert not is_public("::ffff:10.0.0.1")


def test_probe_accepts_what_derper_answers_when_a_source_is_expected(relay: Relay) -> None:
    result = probe_relay(relay.target(expect_source="127.0.0.1"), timeout=PATIENCE)
    assert (result.ok, result.cause, result.mapped_address) == (True, "", "127.0.0.1")


def test_probe_fails_in_words_when_the_relays_host_rewrites_senders(
    start_sandbox_relay: Callable[..., Relay],
) -> None:
    relay = start_sandbox_relay(seen_source=BRIDGE)
    result = probe_relay(relay.target(expect_source="127.0.0.1"), timeout=PATIENCE)
    assert (result.ok, result.step, result.cause, result.mapped_address) == (
        False,
        "mapped",
        "mapped_differs",
        BRIDGE,
    )
    assert BRIDGE in result.detail
    with translation.override("en"):
        assert "admission log" in explain(result)


def test_probe_takes_the_address_of_its_own_socket_for_right_whatever_else_is_expected(relay: Relay) -> None:
    result = probe_relay(relay.target(expect_source="10.9.9.9"), timeout=PATIENCE)
    assert (result.ok, result.cause, result.mapped_address) == (True, "", "127.0.0.1")


def test_an_answer_says_from_where_it_was_asked(relay: Relay) -> None:
    answer = stun.query(relay.address, relay.stun_port, timeout=PATIENCE)
    assert (answer.asked_from, answer.address) == ("127.0.0.1", "127.0.0.1")


def test_probe_only_records_what_it_must_not_judge(start_sandbox_relay: Callable[..., Relay]) -> None:
    relay = start_sandbox_relay(seen_source=BRIDGE)
    target = relay.target(expect_source="127.0.0.1", judges_source=False)
    result = probe_relay(target, timeout=PATIENCE)
    assert (result.ok, result.mapped_address) == (True, BRIDGE)
