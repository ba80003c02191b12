"""Whatever somebody pastes, it is read or refused with a reason, and neither takes longer than in proportion to its length."""

import json
from itertools import cycle, islice

import pytest
from django.test import Client
from django.urls import reverse

from acl.devices.node_keys import (
    LONGEST_INPUT,
    MOST_DEVICES,
    NewDevice,
    NoNodeKey,
    NotAList,
    TooLong,
    has_other_key,
    parse_devices,
)
from serials.rentals.models import Rental
from tests.acl.device_world import A, B
from tests.acl.device_world import browser as browser
from tests.acl.device_world import rental as rental

# Reading any of these takes a fraction of a second. What took the square of their length would end by this limit.
LONG = 200_000


def long(text: str, length: int = LONG) -> str:
    """A text again and again."""
    return "".join(islice(cycle(text), length))


def read(text: str) -> None:
    """All that a page does with a text."""
    try:
        parse_devices(text)
    except NoNodeKey:
        has_other_key(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    ["{}", "{", "[", '{"', '[{"a":', '{"a":{}}', '{"a":1} ', '[{"a":[]}],', "{ ", "[ ", '":', '"a":', " ", "\n", "\r\n", "\n ", "\0",
     "a", "a1", "1", "0", f"nodekey:{A} ", f"nodekey:{A}\n", f"{A}\n", f"nodekey:{A}", f"nodekey:{A[1:]} ", "node key ", "nodekey：", "machine key: ",
     f"machine key: {A} ", "PublicKey ", "\x1b", "\x1b]", "\x1b[", "\x1b[0", "^[", "^[]", "[1;", "--More--\n", "-- More ", "- ", "- a: 1\n\nb\n",
     '{"nodes":[{"node_key":"nodekey:', '{"Self":{},"Peer":{}}'],
)  # fmt: skip
def test_what_repeats_itself_is_read_in_proportion(part: str) -> None:
    read(long(part))


@pytest.mark.slow
@pytest.mark.parametrize(
    "begin", ["private key", "nodekey", "node_key:", "PublicKey", "{", "[{", "[", '{"a":"', "\x1b[", "^[]", "-- More", "machine key:"]
)  # fmt: skip
@pytest.mark.parametrize("rest", [" ", "\t", "0", "a", "\n", "："])
def test_what_never_ends_is_read_in_proportion(begin: str, rest: str) -> None:
    read(begin + long(rest))


@pytest.mark.parametrize(
    "text",
    [
        "- node_key: x\n" + long("  a: 1\n"),
        long("- node_key: x\n"),
        "- node_key: x\n" + long("  - a\n"),
        "- node_key: [" + long("a, "),
        '- node_key: "' + long("a "),
        "- node_key: " + long("9"),
        "- node_key: |\n" + long("   a\n"),
    ],
)
def test_long_yaml_is_read_in_proportion(text: str) -> None:
    read(text)


def test_json_within_json_is_refused_before_the_stack_is_full() -> None:
    for depth in (31, 200, 300, 450, 480, 490, 80_000):
        with pytest.raises(NotAList):
            parse_devices('{"nodes":[' * depth + "]}" * depth)
    with pytest.raises(NotAList):
        parse_devices('[{"a":' + "[" * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        f"- node_key: nodekey:{A}\n  routes: " + "[" * 40 + "]" * 40,
        f"- node_key: nodekey:{A}\n- " + "- " * 40 + "a",
        f"- node_key: &key nodekey:{A}\n- node_key: *key\n",
        f"- node_key: nodekey:{A}\n- ? [a]\n  : b\n",
    ],
    ids=["deep", "deep lines", "anchors", "a list as a name"],
)
def test_yaml_that_no_headscale_writes_is_refused(text: str) -> None:
    with pytest.raises(NotAList):
        parse_devices(text)


def test_a_name_that_looks_like_a_number_is_one_and_nothing_is_none() -> None:
    text = f"- node_key: nodekey:{A}\n  given_name: 1:30\n- node_key: nodekey:{B}\n  given_name: null\n  tags: []\n"
    assert parse_devices(text) == [NewDevice(A, "1:30"), NewDevice(B, "")]


def test_more_devices_than_anybody_reads_are_refused() -> None:
    lines = [f"{number:064x} box" for number in range(1, MOST_DEVICES + 2)]
    assert len(parse_devices("\n".join(lines[:-1]))) == MOST_DEVICES
    with pytest.raises(TooLong):
        parse_devices("\n".join(lines))
    with pytest.raises(TooLong):
        parse_devices(json.dumps([{"node_key": line.split()[0]} for line in lines]))


@pytest.mark.django_db(transaction=True)
def test_the_page_says_that_it_is_too_much_and_keeps_it(browser: Client, rental: Rental) -> None:
    for text in (long("{}", 400_000), long("a", LONGEST_INPUT + 1)):
        page = browser.post(reverse("acl:device-add"), {"text": text}).content.decode()
        assert "This is too long. Paste the devices in several parts." in page
        assert text in page
