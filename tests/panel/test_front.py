"""The front page: what it says of the panel is true, and search engines find it and nothing else."""

import re
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.services.branding import change_brand
from containers.models import Relay
from derpmgmt.front import draw_regions, read_facts
from derpmgmt.lib.kept import Kept
from derpmgmt.pages import PICTURE_SIZE
from fleet.models import Region, Server
from tests.factories import RelayFactory, RelayHealthFactory, ServedRentalFactory, ServerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def page(client: Client) -> Any:
    client.post(reverse("accounts:language-set"), {"language": "en"})

    def ask() -> str:
        Kept.forget_all()
        return client.get(reverse("front")).text

    return ask


def figures(text: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", text))


def test_figures_are_hidden_while_there_is_nothing_to_tell(page: Any) -> None:
    assert figures(page()) == {}
    assert "front-map" not in page()


def test_figures_are_those_of_customers_relays_in_the_last_day(page: Any) -> None:
    now = timezone.now()
    rental = ServedRentalFactory(relays=3)
    first, second, third = rental.relays.order_by("slot")
    Relay.objects.filter(pk=third.pk).update(failing_since=now)
    for relay, handshake, passes, age in (
        (first, 10.0, True, 1),
        (first, 30.0, True, 2),
        (second, 20.0, True, 3),
        (third, None, False, 4),
        # Not of the last day; and of a relay that is nobody's.
        (first, 90.0, True, 25),
        (RelayFactory(rental=None, slot=None), 80.0, False, 1),
    ):
        at = now - timedelta(hours=age)
        RelayHealthFactory(relay=relay, at=at, is_ok=passes, handshake_ms=handshake)
    shown = figures(page())
    assert shown["relays carry packets now"] == "2"
    assert shown["middle of the handshakes in 24 h, from the panel"] == "20.0 ms"
    assert shown["of the tests in 24 h passed"] == "75 %"


def test_a_test_that_failed_is_not_rounded_away() -> None:
    now = timezone.now()
    relay = ServedRentalFactory().relays.get()
    RelayHealthFactory.create_batch(2999, relay=relay, at=now, is_ok=True, handshake_ms=1.0)
    RelayHealthFactory(relay=relay, at=now, is_ok=False, handshake_ms=None)
    assert read_facts(now).passed == 99.9


def test_regions_on_the_map_are_those_where_a_server_is_in_use(page: Any) -> None:
    inside, outside = ServerFactory(whole=True), ServerFactory(whole=True, status=Server.Status.RETIRED)
    for server, name, longitude in ((inside, "Inland", 100.0), (outside, "Gone", 120.0)):
        region = Region.objects.create(
            code=name.lower()[:8], name_zh=name, name_en=name, latitude=30.0, longitude=longitude
        )
        Server.objects.filter(pk=server.pk).update(region=region)
    text = page()
    assert '<text class="name"' in text
    assert ">Inland</text>" in text
    assert "Gone" not in text


@pytest.mark.parametrize(
    "places",
    [
        [(31.2, 121.5)],
        [(31.2, 121.5)] * 12,
        [(-33.9, 151.2), (51.5, -0.1), (40.7, -74.0)],
        [(90.0, 180.0), (-90.0, -180.0)],
        [(None, None), (22.3, 114.2)],
    ],
)
def test_every_name_on_the_map_is_within_it_and_on_no_other(places: list[tuple[Any, Any]]) -> None:
    regions = [
        Region(name_zh=f"Region {number}", name_en=f"Region {number}", latitude=latitude, longitude=longitude)
        for number, (latitude, longitude) in enumerate(places)
    ]
    drawn = draw_regions(regions)
    assert drawn
    assert len(drawn.spots) == len([place for place in places if place[0] is not None])
    for spot in drawn.spots:
        assert 0 <= spot.x <= drawn.width
        assert 0 <= spot.y <= drawn.height
    lines = sorted((spot.anchor, spot.label_y) for spot in drawn.spots)
    pairs = [(one, other) for one, other in pairwise(lines) if one[0] == other[0]]
    assert all(other[1] - one[1] >= 20 for one, other in pairs)
    assert len(drawn.meridians) < 12
    assert len(drawn.parallels) < 12


def test_whom_to_ask_stands_there_only_when_the_brand_says_so(page: Any) -> None:
    assert 'id="get"' not in page()
    change_brand(by=None, name="Bridge", wechat="bridge-help", buy_url="https://shop.example/")
    text = page()
    assert 'href="https://shop.example/"' in text
    assert "bridge-help" in text
    assert "derpmgmt" not in re.sub(r"<(link|script|img|source|meta)[^>]*>", "", text)


def test_search_engines_are_told_of_the_front_page_alone(client: Client, page: Any) -> None:
    answer = client.get("/robots.txt")
    assert answer["Content-Type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert lines[0] == "User-agent: *"
    assert {"Allow: /$", "Allow: /terms/", "Allow: /privacy/", "Disallow: /"} <= set(lines)
    text = page()
    (canonical,) = re.findall(r'rel="canonical" href="([^"]*)"', text)
    assert canonical == f"{settings.PUBLIC_URL}/"
    for name in ("og:title", "og:description", "og:image"):
        assert re.search(rf'<meta property="{name}" content="[^"]+">', text)


@pytest.mark.parametrize("language", [code for code, _name in settings.LANGUAGES])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pictures_are_small_and_of_the_size_that_the_page_says(language: str, theme: str) -> None:
    picture = (Path(settings.BASE_DIR) / "static" / "front" / f"home-{language}-{theme}.webp").read_bytes()
    assert len(picture) < 60_000
    # A lossy WebP: the sizes stand behind the frame's start code (RFC 9649, 2.5).
    at = picture.index(b"\x9d\x01\x2a") + 3
    width, height = (int.from_bytes(picture[at + part : at + part + 2], "little") for part in (0, 2))
    assert width / height == PICTURE_SIZE[0] / PICTURE_SIZE[1]


def test_a_chosen_theme_has_its_own_picture(client: Client) -> None:
    assert "<picture>" in client.get(reverse("front")).text
    client.cookies["theme"] = "dark"
    text = client.get(reverse("front")).text
    assert "<picture>" not in text
    assert re.search(r'<img src="[^"]*-dark[^"]*"', text)
