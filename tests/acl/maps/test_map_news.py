"""What the customer is told about a new version: what changed, and whether to paste again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.utils import timezone, translation

from accounts.models import Notice
from accounts.services import notify
from acl.maps import services
from acl.maps.models import RENEW_BEFORE
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.steps import active, change_all, fetch, later, move, remove, rotate, sweep_at, take
from tests.factories import RelayFactory, RentalFactory, ServedRentalFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    return ServedRentalFactory(relays=3, days=200)


def told() -> list[dict[str, Any]]:
    return [notice.context for notice in Notice.objects.filter(kind="map_changed").order_by("pk")]


def words(context: dict[str, Any]) -> dict[str, str]:
    """The mail in English."""
    dates = {
        name: datetime.fromisoformat(context[name]) for name in ("valid_until", "old_until") if context[name]
    }
    with translation.override("en"):
        return {
            part.split(".")[0].replace("message", "text"): render_to_string(
                f"notices/map_changed_{part}", context | dates
            )
            for part in ("subject.txt", "message.txt")
        }


def test_first_versions_are_not_told_when_relays_come_one_by_one() -> None:
    rental = RentalFactory()
    for slot in (1, 2, 3):
        RelayFactory(rental=rental, slot=slot)
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
    assert context["must_paste"]
    assert [change["kind"] for change in context["changes"]] == ["moved", "moved"]
    assert context["url"] == "http://testserver/home/#derp-map"


def test_mail_asks_whoever_may_have_pasted_when_no_version_was_taken(rental: Rental) -> None:
    sweep_at(later())
    change_all(rental)
    sweep_at(later())
    (context,) = told()
    assert (context["taken"], context["must_paste"], context["may_paste"]) == (None, False, True)
    said = words(context)
    assert said["subject"].strip() == "Your derpMap changed: version 2"
    assert "If you last pasted version 1 or an older one, paste this one" in said["text"]
    assert "nothing" not in said["text"]


def test_customer_is_told_when_he_took_a_first_version_that_was_followed_at_once() -> None:
    rental = RentalFactory()
    RelayFactory(rental=rental, slot=1)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    take(rental)
    for slot in (2, 3):
        RelayFactory(rental=rental, slot=slot)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    sweep_at(later(), times=2)
    (context,) = told()
    assert (context["version"], context["old_version"], context["must_paste"]) == (2, 1, True)
    assert [change["kind"] for change in context["changes"]] == ["added", "added"]


def test_mail_lists_all_that_his_version_misses_when_he_did_not_paste_before(rental: Rental) -> None:
    take(rental)
    sweep_at(later())
    move(Relay.objects.order_by("slot")[0])
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    sweep_at(later())
    services.renew_map(rental=rental, by=None)
    sweep_at(later())
    _, context = told()
    assert (context["version"], context["old_version"], context["must_paste"]) == (3, 1, True)
    assert [change["kind"] for change in context["changes"]] == ["moved"]


@pytest.mark.parametrize("is_taken", [True, False])
def test_mail_names_both_ways_when_the_live_url_was_only_looked_at(rental: Rental, is_taken: bool) -> None:
    if is_taken:
        take(rental)
    sweep_at(later())
    services.create_live_url(rental=rental, by=rental.user)
    fetch(rental, later(0), "Mozilla/5.0")
    change_all(rental)
    sweep_at(later())
    (context,) = told()
    said = words(context)
    assert "nothing to paste" not in said["subject"]
    assert "aste " in said["text"]
    assert "A program that follows your live URL gets it by itself." in said["text"]


@pytest.mark.parametrize("is_taken", [True, False])
def test_rotation_is_told_once_and_until_when_the_old_relays_stay(rental: Rental, is_taken: bool) -> None:
    if is_taken:
        take(rental)
    sweep_at(later())
    old = rotate(rental)
    sweep_at(later())
    (context,) = told()
    until = datetime.fromisoformat(context["old_until"])
    assert f"stay until {timezone.localtime(until):%Y-%m-%d %H:%M}" in words(context)["text"]
    if is_taken:
        take(rental)
    remove(rental, old)
    sweep_at(later(), times=2)
    assert len(told()) == 1
    assert active(rental).told_at


@pytest.mark.parametrize("is_taken", [True, False])
def test_customer_is_told_again_the_day_before_his_relays_go_when_he_has_not_pasted(
    rental: Rental, is_taken: bool
) -> None:
    take(rental)
    sweep_at(later())
    rotate(rental)
    sweep_at(later())
    if is_taken:
        take(rental)
    gone_at = timezone.now() + timedelta(days=7)
    sweep_at(gone_at - timedelta(days=1, minutes=1))
    assert len(told()) == 1
    sweep_at(gone_at - timedelta(hours=23), times=2)
    sweep_at(gone_at)
    assert len(told()) == (1 if is_taken else 2)
    if not is_taken:
        context = told()[1]
        assert (context["version"], context["must_paste"]) == (4, True)
        assert datetime.fromisoformat(context["old_until"]) - gone_at < timedelta(minutes=1)


def test_others_are_told_when_one_cannot_be(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rentals = [ServedRentalFactory(days=60), rental, ServedRentalFactory(days=60)]
    sweep_at(later())
    for one in rentals:
        Relay.objects.filter(rental=one).update(stun_port=1)
        services.refresh_map(rental=one, reason=services.RELAYS_CHANGED)

    def fail_once(*, user: Any, **told: Any) -> Any:
        if user.pk == rental.user_id:
            raise RuntimeError
        return notify(user=user, **told)

    with monkeypatch.context() as patch:
        patch.setattr("acl.maps.services.map_news.notify", fail_once)
        sweep_at(later())
    assert set(Notice.objects.filter(kind="map_changed").values_list("user", flat=True)) == {
        rentals[0].user_id,
        rentals[2].user_id,
    }
    assert f"news of map versions: row {active(rental).pk} is put off" in caplog.text
    sweep_at(later() + timedelta(minutes=1))
    assert len(told()) == 3


@pytest.mark.parametrize("is_taken", [True, False])
def test_nobody_is_written_to_when_only_the_date_is_new(rental: Rental, is_taken: bool) -> None:
    if is_taken:
        take(rental)
    sweep_at(later())
    first = active(rental)
    sweep_at(first.ends_at - RENEW_BEFORE)
    sweep_at(first.ends_at - RENEW_BEFORE + timedelta(minutes=3))
    assert active(rental).version == 2
    assert active(rental).told_at
    assert told() == []


def test_whoever_took_none_hears_of_a_change_once_when_the_next_version_leads_to_the_same(
    rental: Rental,
) -> None:
    sweep_at(later())
    change_all(rental)
    sweep_at(later())
    services.renew_map(rental=rental, by=None)
    sweep_at(later())
    assert [context["version"] for context in told()] == [2]


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
    {
        "changes": [{"kind": "moved", "region_id": 901, "name": "A&B 1"}],
        "taken": None,
        "must_paste": False,
        "may_paste": True,
        "may_be_live": True,
        "old_until": datetime(2031, 3, 5, tzinfo=UTC),
    },
    {
        "changes": [
            {"kind": kind, "region_id": 901, "name": "A&B 1"} for kind in ("added", "removed", "moved")
        ],
        "taken": 3,
        "must_paste": True,
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
