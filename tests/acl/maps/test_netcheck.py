"""A device's own times to the relays, as `tailscale netcheck --format=json` prints them and people paste them."""

import json
from typing import Any

import pytest
from django.test import Client
from django.utils import translation
from django.utils.html import escape
from hypothesis import given
from hypothesis import strategies as st

from acl.maps.models import MapRegion
from acl.maps.netcheck import LONGEST, NotNetcheck, parse_netcheck
from containers.models import Relay
from containers.sample_models import ClientLatency
from serials.rentals.models import Rental
from tests.factories import ServedRentalFactory, UserFactory, WholeRentalFactory

# As Tailscale 1.102.5 printed it in the lab, with the numbers of another network: times in nanoseconds, a relay that did not answer missing.
REPORT: dict[str, Any] = {
    "Now": "2026-11-30T22:59:00.123456789+08:00",
    "UDP": True,
    "IPv6": False,
    "IPv4": True,
    "IPv6CanSend": False,
    "IPv4CanSend": True,
    "OSHasIPv6": True,
    "ICMPv4": False,
    "MappingVariesByDestIP": False,
    "UPnP": False,
    "PMP": False,
    "PCP": False,
    "PreferredDERP": 901,
    "RegionLatency": {"900": 31_250_000, "901": 8_400_123, "1": 210_000_000},
    "RegionV4Latency": {"900": 31_250_000, "901": 8_400_123, "1": 210_000_000},
    "RegionV6Latency": {},
    "GlobalV4Counters": {"203.0.113.9:41641": 2},
    "GlobalV6Counters": None,
    "GlobalV4": "203.0.113.9:41641",
    "GlobalV6": "",
    "CaptivePortal": None,
}
# By ping and HTTPS, since no UDP passes.
NO_UDP = REPORT | {
    "UDP": False, "ICMPv4": True, "MappingVariesByDestIP": None, "RegionV4Latency": {}, "GlobalV4Counters": None, "GlobalV4": "",
}  # fmt: skip
# What the program tells the terminal before it.
NOISE = (
    "# Warning: this JSON format is not yet considered a stable interface\n"
    "2026/12/01 10:27:59 portmap: monitor: gateway and self IP changed: gw=10.99.0.254 self=10.99.0.1\n"
)
NO_TAILSCALED = (
    NOISE
    + "2026/12/01 10:28:02 attempting to fetch a DERPMap from https://controlplane.tailscale.com\n"
    + "2026/12/01 10:28:12 Failed to fetch a DERP map, so netcheck cannot continue. Check your Internet connection.\n"
    + 'fetch prodDERPMap failed: Get "https://controlplane.tailscale.com/derpmap/default": context deadline exceeded\n'
)
TABLE = """Report:
\t* Time: 2026-11-30T14:59:00Z
\t* UDP: true
\t* DERP latency:
\t\t- sh1: 8.4ms   (上海 1)
"""


def printed(report: dict[str, Any] | None = None) -> str:
    return json.dumps(report or REPORT, indent="\t")


@pytest.mark.parametrize(
    "text",
    [
        printed(),
        json.dumps(REPORT),
        NOISE + printed(),
        NOISE + json.dumps(NO_UDP, separators=(",", ":")),
        f"PS C:\\> tailscale netcheck --format=json\n2026/11/30 22:59:00 portmap: {{monitor}} down\n{printed()}\n\nuser@host:~$ ",
        "\ufeff" + "".join(f"{letter}\0" for letter in printed()),
        f"\x1b[32m{printed()}\x1b[0m",
        f'{{"warning": 1}}\n{printed()}',
    ],
)
def test_times_are_read_whatever_stands_around_them(text: str) -> None:
    assert parse_netcheck(text) == {900: 31.25, 901: 8.400123, 1: 210.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not what the command prints"),
        ("command not found: tailscale", "not what the command prints"),
        (TABLE, "the table for people"),
        (NO_TAILSCALED, "is not connected on this device"),
        (printed()[:-300], "not whole"),
        (printed()[:120], "not whole"),
        ('{"BackendState": "Running", "Peer": {}}', "another command"),
        (printed(REPORT | {"RegionLatency": None, "UDP": False}), "no relay at all"),
        (printed(REPORT | {"RegionLatency": {}}), "no relay at all"),
        (printed(REPORT | {"RegionLatency": [1]}), "not what the command prints"),
        (printed(REPORT | {"RegionLatency": {"x": 1, "900": "fast", "901": True, "902": -5, "903": 1e30}}), "not what"),
        ('{"RegionLatency": {"900": NaN}}', "not whole"),
        ('{"RegionLatency": {"900": ' + "9" * 5000 + "}}", "not whole"),
        ("{" * 40_000, "not what the command prints"),
        ('{"a":' * 30_000, "not whole"),
        (" " * (LONGEST + 1), "too long"),
    ],
)  # fmt: skip
def test_it_is_said_what_is_wrong_about_anything_else(text: str, words: str) -> None:
    with pytest.raises(NotNetcheck) as caught:
        parse_netcheck(text)
    with translation.override("en"):
        assert words in str(caught.value)


@given(st.text(max_size=300) | st.text(alphabet='{}[]":0Region,Latency', max_size=300))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        found = parse_netcheck(text)
    except NotNetcheck:
        return
    assert all(0 < milliseconds <= 60_000 for milliseconds in found.values())


@pytest.fixture
def rental() -> Rental:
    rental: Rental = WholeRentalFactory()
    return rental


@pytest.fixture
def signed_in(client: Client, rental: Rental) -> Client:
    rental.user.language = "en"
    rental.user.save()
    client.force_login(rental.user)
    return client


def regions_of(rental: Rental) -> dict[int, int]:
    return dict(
        MapRegion.objects.filter(rental=rental).order_by("region_id").values_list("region_id", "relay")
    )


@pytest.mark.django_db
def test_pasted_times_stand_on_the_cards_beside_the_panels(signed_in: Client, rental: Rental) -> None:
    (first, relay), (_second, other), *_rest = regions_of(rental).items()
    before = Relay.objects.get(pk=relay).changed_at
    text = printed(REPORT | {"RegionLatency": {str(first): 12_340_000, "999": 1_000_000, "7": 5}})
    answer = signed_in.post("/map/netcheck/", {"text": text}, follow=True)
    assert answer.redirect_chain == [("/home/", 302)]
    page = answer.content.decode()
    assert "The time from your device to 1 relay is kept." in page
    assert "12.3 ms" in page
    found = Relay.objects.get(pk=relay)
    assert (found.client_ms, found.changed_at) == (12.34, before)
    assert Relay.objects.get(pk=other).client_ms is None
    assert list(ClientLatency.objects.values_list("relay", "ms")) == [(relay, 12.34)]


@pytest.mark.django_db
def test_what_is_none_stays_in_its_field_with_what_is_wrong(signed_in: Client, rental: Rental) -> None:
    for text, words in ((TABLE, "--format=json, and paste"), (" ", "Paste the output"), (printed(REPORT | {"RegionLatency": {"2": 5_000_000}}), "none of yours"),
                        (NO_TAILSCALED.splitlines()[2] + printed(REPORT | {"RegionLatency": {"2": 5_000_000}}), "is not connected on this device")):  # fmt: skip
        page = signed_in.post("/map/netcheck/", {"text": text}).content.decode()
        assert words in page
        assert escape(text) in page
        assert 'aria-invalid="true"' in page
    assert not ClientLatency.objects.exists()
    assert "<script" not in signed_in.post("/map/netcheck/", {"text": "</textarea><script>x"}).content.decode().partition("</textarea>")[0].rpartition("<textarea")[2]  # fmt: skip


@pytest.mark.django_db
def test_nobody_writes_to_relays_of_others(client: Client, rental: Rental) -> None:
    other = ServedRentalFactory(days=60)
    client.force_login(other.user)
    region = next(iter(regions_of(rental)))
    assert region in regions_of(other)
    client.post("/map/netcheck/", {"text": printed(REPORT | {"RegionLatency": {str(region): 9_000_000}})})
    assert set(ClientLatency.objects.values_list("relay__rental", flat=True)) == {other.pk}
    client.force_login(UserFactory())
    assert client.get("/map/netcheck/").status_code == 200
    client.post("/map/netcheck/", {"text": printed()})
    assert ClientLatency.objects.count() == 1
