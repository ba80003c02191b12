"""What the customer is told about a new version: what changed, and whether to paste again."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from accounts.models import Notice
from acl import derpmap, services
from acl.models import RENEW_BEFORE, LiveUrl, MapRegion
from containers.models import Relay
from serials.models import Rental
from tests.acl.factories import make_relay, make_rental, make_served_rental
from tests.acl.steps import active, move, sweep_at, take

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    return make_served_rental(relays=3, days=200)


def note(rental: Rental) -> services.PasteNote:
    url = LiveUrl.objects.filter(rental=rental, revoked_at=None).first()
    return services.describe_paste(config=active(rental), url=url, now=timezone.now())


def test_nothing_is_said_when_no_version_was_taken(rental: Rental) -> None:
    assert note(rental) == services.PasteNote(None, (), False)


def test_pasting_again_is_asked_for_when_the_way_to_a_relay_changed(rental: Rental) -> None:
    take(rental)
    first, second, third = Relay.objects.order_by("slot")
    move(first)
    Relay.objects.filter(pk=second.pk).update(status="released", slot=None)
    MapRegion.objects.filter(relay=third).update(region_id=950)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    found = note(rental)
    assert (found.taken, found.must_paste) == (1, True)
    assert [(change.kind, change.region_id) for change in found.changes] == [
        ("moved", 901),
        ("removed", 902),
        ("removed", 903),
        ("added", 950),
    ]
    take(rental)
    assert not note(rental).must_paste


def test_version_between_does_not_hide_the_change_when_the_newest_is_the_same(rental: Rental) -> None:
    take(rental)
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    services.renew_map(rental=rental, by=None)
    assert note(rental).must_paste


def test_nothing_is_to_be_pasted_when_only_the_date_is_new(rental: Rental) -> None:
    take(rental)
    services.renew_map(rental=rental, by=None)
    assert note(rental) == services.PasteNote(1, (), False)


def test_what_others_took_does_not_count(rental: Rental) -> None:
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.JSON, by=None)
    assert note(rental).taken is None


def test_nothing_is_to_be_pasted_when_the_live_url_is_in_use(rental: Rental) -> None:
    take(rental)
    url = services.create_live_url(rental=rental, by=rental.user)
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    assert note(rental).must_paste  # made, but nobody reads it
    LiveUrl.objects.filter(pk=url.pk).update(last_fetched_at=timezone.now() - timedelta(hours=1))
    assert (note(rental).is_live, note(rental).must_paste) == (True, False)
    LiveUrl.objects.filter(pk=url.pk).update(last_fetched_at=timezone.now() - timedelta(days=3))
    assert note(rental).must_paste


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_page_says_what_changed_when_something_must_be_pasted(
    client: Client, rental: Rental, language: str
) -> None:
    rental.user.language = language
    rental.user.save()
    client.force_login(rental.user)
    take(rental)
    page = client.get(reverse("home")).text
    assert "alert-warning" not in page
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    page = client.get(reverse("home")).text
    assert "alert-warning" in page
    assert "901" in page[page.index("alert-warning") :][:600]


# Told


def told() -> list[dict[str, Any]]:
    return [notice.context for notice in Notice.objects.filter(kind="map_changed").order_by("pk")]


def later(minutes: float = 3) -> datetime:
    return timezone.now() + timedelta(minutes=minutes)


def test_first_versions_are_not_told_when_relays_come_one_by_one() -> None:
    rental = make_rental()
    for slot in (1, 2, 3):
        make_relay(rental, slot=slot)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
        sweep_at(later(0))
    sweep_at(later(), times=2)
    assert told() == []
    assert active(rental).told_at


def test_customer_is_told_once_what_came_of_it_when_relays_changed_twice(rental: Rental) -> None:
    take(rental)
    sweep_at(later())
    for relay in Relay.objects.order_by("slot")[:2]:
        move(relay)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
        sweep_at(later(0))
    assert told() == []
    sweep_at(later(), times=3)
    (context,) = told()
    assert (context["version"], context["old_version"], context["taken"]) == (3, 1, 1)
    assert (context["must_paste"], context["is_live"]) == (True, False)
    assert [change["kind"] for change in context["changes"]] == ["moved", "moved"]
    assert context["url"] == "http://testserver/home/#derp-map"


def test_customer_is_told_that_nothing_is_to_be_done_when_only_the_date_is_new(rental: Rental) -> None:
    take(rental)
    sweep_at(later())
    first = active(rental)
    sweep_at(first.ends_at - RENEW_BEFORE)
    sweep_at(first.ends_at - RENEW_BEFORE + timedelta(minutes=3))
    (context,) = told()
    assert (context["changes"], context["must_paste"], context["version"]) == ([], False, 2)


def test_customer_is_told_once_when_the_sweep_was_down_for_a_week(rental: Rental) -> None:
    sweep_at(later())
    for relay in Relay.objects.order_by("slot"):
        move(relay)
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    sweep_at(timezone.now() + timedelta(days=7), times=3)
    assert [context["version"] for context in told()] == [4]


def test_withdrawn_version_is_not_told(rental: Rental) -> None:
    sweep_at(later())
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    Rental.objects.update(paused_at=timezone.now())
    sweep_at(later())
    assert told() == []


CONTEXTS: list[dict[str, Any]] = [
    {"changes": [], "taken": None, "must_paste": False, "is_live": False},
    {"changes": [], "taken": 3, "must_paste": False, "is_live": False},
    {
        "changes": [
            {"kind": kind, "region_id": 901, "name": "A&B 1"} for kind in ("added", "removed", "moved")
        ],
        "taken": 3,
        "must_paste": True,
        "is_live": False,
    },
    {
        "changes": [{"kind": "moved", "region_id": 901, "name": "A&B 1"}],
        "taken": 3,
        "must_paste": False,
        "is_live": True,
    },
]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_mail_says_it_in_text_as_well_as_in_html(context: dict[str, Any], language: str) -> None:
    whole = {"version": 5, "old_version": 4, "valid_until": timezone.now(), "url": "http://x/", **context}
    with translation.override(language):
        subject, text, html = (
            render_to_string(f"notices/map_changed_{part}", whole)
            for part in ("subject.txt", "message.txt", "message.html")
        )
    assert "5" in subject
    assert len(subject.strip().splitlines()) == 1
    assert text.count("A&B 1") == html.count("A&amp;B 1") == len(context["changes"])
    assert "A&amp;" not in text
    assert "http://x/" in text
    assert "{" not in text + subject
