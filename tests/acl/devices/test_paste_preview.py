"""Whether a customer has to paste their map again, and what the page says of it."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.maps import derpmap, services
from acl.maps.models import AclConfig, LiveUrl, MapRegion
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.steps import (
    active,
    change_all,
    fetch,
    later,
    make_old_url,
    move,
    remove,
    rotate,
    sweep_at,
    take,
)
from tests.factories import ServedRentalFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    return ServedRentalFactory(relays=3, days=200)


def note(rental: Rental, now: datetime | None = None) -> services.PasteNote:
    url = LiveUrl.objects.filter(rental=rental, revoked_at=None).first()
    return services.describe_paste(config=active(rental), url=url, now=now or timezone.now())


def test_nothing_is_said_when_no_version_was_taken_and_none_was_there_before(rental: Rental) -> None:
    assert note(rental) == services.PasteNote()
    change_all(rental)
    assert note(rental) == services.PasteNote()


def test_whoever_may_have_pasted_is_told_how_old_his_version_may_be_when_none_was_taken(
    rental: Rental,
) -> None:
    sweep_at(later())
    change_all(rental)
    found = note(rental)
    assert (found.must_paste, found.may_paste, found.since, len(found.changes)) == (False, True, 1, 3)
    sweep_at(later())
    # A version of which only the date is new hides nothing; one that is as old as a map gets does not count.
    services.renew_map(rental=rental, by=None)
    assert (note(rental).may_paste, note(rental).since) == (True, 1)
    AclConfig.objects.filter(version=1).update(ends_at=timezone.now())
    assert not note(rental).may_paste


def test_the_last_version_counts_however_old_when_none_was_taken(rental: Rental) -> None:
    sweep_at(later())
    AclConfig.objects.update(ends_at=timezone.now())
    change_all(rental)
    assert (note(rental).may_paste, note(rental).since) == (True, 1)


def test_nothing_is_to_be_pasted_when_relays_only_went(rental: Rental) -> None:
    take(rental)
    sweep_at(later())
    old = rotate(rental)
    assert note(rental).must_paste
    take(rental)
    remove(rental, old)
    assert note(rental) == services.PasteNote(taken=4)
    remove(rental, [Relay.objects.get(slot=3)])
    found = note(rental)
    assert (found.must_paste, found.may_paste, found.has_leftovers) == (False, False, True)
    assert {change.kind for change in found.changes} == {"removed"}


def test_pasting_is_asked_for_when_all_that_was_pasted_is_gone(rental: Rental) -> None:
    take(rental)
    sweep_at(later())
    remove(rental, rotate(rental))
    assert note(rental).must_paste


def test_note_says_until_when_the_old_relays_stay_when_they_have_successors(
    rental: Rental, settings: Any
) -> None:
    take(rental)
    sweep_at(later())
    assert note(rental).old_until is None
    old = rotate(rental)
    first = timezone.now() - timedelta(days=1)
    Relay.objects.filter(pk=old[0].pk).update(retiring_since=first)
    assert note(rental).old_until == first + timedelta(days=settings.ROTATION_GRACE_DAYS)
    take(rental)
    assert note(rental).old_until is None


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
    assert note(rental) == services.PasteNote(taken=1, since=1)


def test_what_others_took_does_not_count(rental: Rental) -> None:
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.JSON, by=None)
    assert note(rental).taken is None


def test_nothing_is_to_be_pasted_when_a_program_follows_the_live_url(rental: Rental) -> None:
    take(rental)
    services.create_live_url(rental=rental, by=rental.user)
    change_all(rental)
    assert note(rental).must_paste  # made, but nobody reads it
    for minutes in (0, 30):
        fetch(rental, later(minutes))
    assert note(rental).must_paste
    fetch(rental, later(61))
    assert (note(rental).is_live, note(rental).must_paste) == (True, False)
    assert note(rental, later(60 * 50)).must_paste  # it does not any more


@pytest.mark.parametrize(
    ("browser", "times", "minutes"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0)", 9, 300),
        ("curl/8.14", 9, 20),
        ("curl/8.14", 2, 300),
        ("", 9, 300),
    ],
)
def test_both_ways_are_named_when_looks_at_the_live_url_are_no_habit(
    rental: Rental, browser: str, times: int, minutes: int
) -> None:
    take(rental)
    make_old_url(rental)
    for number in range(times):
        fetch(rental, later(minutes * number / (times - 1) - minutes), browser)
    change_all(rental)
    assert (note(rental).is_live, note(rental).may_be_live, note(rental).must_paste) == (False, True, True)


def test_a_habit_of_the_live_url_before_does_not_count(rental: Rental) -> None:
    url = make_old_url(rental)
    for minutes in (0, 30, 61):
        fetch(rental, later(minutes - 61))
    assert note(rental).is_live
    services.create_live_url(rental=rental, by=rental.user, instead_of=url.pk)
    fetch(rental, later(0))
    assert not note(rental).is_live


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_page_says_what_changed_when_something_must_be_pasted(
    client: Client, rental: Rental, language: str
) -> None:
    rental.user.language = language
    rental.user.save()
    client.force_login(rental.user)
    take(rental)
    page = client.get(reverse("home")).text
    assert 'alert alert-warning"' not in page
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    page = client.get(reverse("home")).text
    assert 'alert alert-warning"' in page
    assert "901" in page[page.index('alert alert-warning"') :][:600]


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_page_names_old_versions_and_relays_when_none_was_taken(
    client: Client, rental: Rental, language: str
) -> None:
    rental.user.language = language
    rental.user.save()
    client.force_login(rental.user)
    sweep_at(later())
    assert "alert-info" not in client.get(reverse("home")).text
    old = rotate(rental)
    page = client.get(reverse("home")).text
    said = page[page.index("alert-info") :][:800]
    until = note(rental).old_until
    assert until
    assert "903" in said
    assert f"{timezone.localtime(until):%Y-%m-%d %H:%M}" in said
    # Whoever has not pasted since has lost all their relays.
    sweep_at(later())
    remove(rental, old)
    assert "alert-info" in client.get(reverse("home")).text


def test_page_says_what_may_be_deleted_when_relays_only_went(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    take(rental)
    remove(rental, [Relay.objects.get(slot=1)])
    page = client.get(reverse("home")).text
    assert "can be deleted with the next paste" in page
    assert "gone: Shanghai 1 (region 901)" in page
    assert "Paste the new one" not in page
