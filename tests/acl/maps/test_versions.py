"""The 32 days of a version, new versions by hand, and their end with the account."""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import OperationLog
from acl.maps import derpmap, jobs
from acl.maps import services as maps
from acl.maps.models import RENEW_BEFORE, VALID_FOR, AclConfig, AclEvent, LiveUrl
from containers.models import Relay
from containers.services.planning import plan_relays
from containers.services.relays import record_released, record_running
from derpmgmt.admin_site import PanelAdminSite
from fleet.models import Server
from serials.rentals.models import Rental
from tests.acl.steps import active, set_paid, sweep_at, take
from tests.factories import RelayFactory, RentalFactory, ServedRentalFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    return ServedRentalFactory(relays=3, days=200)


# The 32 days


def test_next_version_is_made_before_the_old_one_lapses(rental: Rental) -> None:
    first = active(rental)
    sweep_at(first.ends_at - RENEW_BEFORE - timedelta(seconds=1))
    assert active(rental) == first
    sweep_at(first.ends_at - RENEW_BEFORE, times=3)
    second = active(rental)
    assert (second.version, second.derp_map, second.reason) == (2, first.derp_map, maps.LAPSED)
    assert second.ends_at - second.created_at == VALID_FOR
    sweep_at(first.ends_at + timedelta(seconds=1))
    assert active(rental) == second


def test_one_version_follows_when_the_sweep_was_down_for_months(rental: Rental) -> None:
    first = active(rental)
    with time_machine.travel(first.ends_at + timedelta(days=90)):
        with pytest.raises(maps.DownloadRefused) as refused:
            maps.check_download(rental=rental, now=timezone.now())
        assert refused.value.code == "lapsed"
        jobs.sweep_maps()
        jobs.sweep_maps()
        assert active(rental).version == 2
        assert maps.check_download(rental=rental, now=timezone.now()).version == 2


def test_lapse_is_recorded_once_and_pins_stay_when_nothing_else_is_set(rental: Rental) -> None:
    first = active(rental)
    pins = set(Relay.objects.values_list("certificate_sha256", flat=True))
    sweep_at(first.ends_at, times=2)
    first.refresh_from_db()
    assert (first.lapsed_at, first.is_active) == (first.ends_at, None)
    assert not maps.due_lapses(first.ends_at)
    assert set(Relay.objects.values_list("certificate_sha256", flat=True)) == pins


def test_pins_are_rotated_until_none_is_left_when_that_is_set(
    rental: Rental, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROTATE_PINS = True
    asked: list[int] = []
    monkeypatch.setattr(
        "acl.maps.services.versions.rotate_relay", lambda *, relay, **_: asked.append(relay.slot)
    )
    first = active(rental)
    sweep_at(first.ends_at - timedelta(hours=1))
    assert asked == []
    sweep_at(first.ends_at)
    assert sorted(asked) == [1, 2, 3]
    # Successors have taken two places over; the old ones stand beside them for a while.
    for relay in Relay.objects.filter(slot__in=[1, 2]):
        slot = relay.slot
        Relay.objects.filter(pk=relay.pk).update(slot=None)
        RelayFactory(rental=rental, slot=slot)
    asked.clear()
    sweep_at(first.ends_at)
    assert asked == [3]
    Relay.objects.filter(slot=3).update(certificate_sha256="f" * 64)
    asked.clear()
    sweep_at(first.ends_at, times=2)
    assert asked == []
    first.refresh_from_db()
    assert first.lapsed_at


def test_nothing_is_rotated_when_the_rental_has_ended(
    rental: Rental, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROTATE_PINS = True
    monkeypatch.setattr("acl.maps.services.versions.rotate_relay", lambda **_: pytest.fail("rotated"))
    Rental.objects.update(paused_at=timezone.now())
    sweep_at(active(rental).ends_at)
    assert maps.active_config(rental) is None
    assert not maps.due_lapses(timezone.now() + VALID_FOR)


def go(rental: Rental, now: datetime) -> None:
    """The rental has ended, and its relays are removed from their servers."""
    Rental.objects.update(runs_until=now)
    plan_relays(rental_pk=rental.pk, now=now)
    for relay in Relay.objects.all():
        record_released(relay=relay, now=now)


def make_usable() -> None:
    Server.objects.update(
        status="healthy", host_key="x", capacity=9,
        tcp_port_first=20000, tcp_port_last=29999, udp_port_first=30000, udp_port_last=39999,
    )  # fmt: skip


def come_up(now: datetime) -> None:
    for relay in Relay.objects.filter(status="planned"):
        record_running(relay=relay, image="x", now=now)


def pins_in_place() -> set[str]:
    return set(Relay.objects.wanted().values_list("certificate_sha256", flat=True))


def test_pins_of_a_version_that_lapsed_while_the_rental_was_over_are_rotated_when_it_returns(
    rental: Rental, settings: Any
) -> None:
    settings.ROTATE_PINS = True
    make_usable()
    first, old = active(rental), pins_in_place()
    over, back = first.ends_at - timedelta(days=2), first.ends_at + timedelta(days=2)
    with time_machine.travel(over, tick=False):
        go(rental, over)
        assert not pins_in_place()
    sweep_at(over, times=2)
    sweep_at(first.ends_at + timedelta(days=1), times=2)
    assert maps.active_config(rental) is None
    with time_machine.travel(back, tick=False):
        Rental.objects.update(runs_until=back + timedelta(days=90))
        jobs.sweep_maps()  # before anything came back
        plan_relays(rental_pk=rental.pk, now=back)
        come_up(back)
        assert pins_in_place() == old
        for _time in range(2):
            jobs.sweep_maps()
            come_up(back)
        # Make before break: the old ones stay until nobody needs them.
        assert Relay.objects.retiring().count() == 3
        assert pins_in_place().isdisjoint(old)
        assert active(rental).derp_map["Regions"].keys() == {"901", "902", "903"}
    first.refresh_from_db()
    assert first.lapsed_at


def test_lapse_is_recorded_and_pins_come_back_when_the_rental_was_over_and_nothing_else_is_set(
    rental: Rental,
) -> None:
    make_usable()
    first, old = active(rental), pins_in_place()
    over, back = first.ends_at - timedelta(days=2), first.ends_at + timedelta(days=2)
    with time_machine.travel(over, tick=False):
        go(rental, over)
    sweep_at(first.ends_at, times=2)
    first.refresh_from_db()
    assert first.lapsed_at
    with time_machine.travel(back, tick=False):
        Rental.objects.update(runs_until=back + timedelta(days=90))
        plan_relays(rental_pk=rental.pk, now=back)
        come_up(back)
        jobs.sweep_maps()
        assert pins_in_place() == old


def test_lapses_of_ended_rentals_hold_nobody_up_and_end_with_the_account(
    rental: Rental, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ROTATE_PINS = True
    monkeypatch.setattr("acl.maps.jobs.LAPSES_AT_ONCE", 1)
    Rental.objects.update(runs_until=timezone.now())
    other = ServedRentalFactory(days=200)
    config, moment = active(other), timezone.now() + VALID_FOR
    assert list(maps.due_lapses(moment)) == [config]
    AclConfig.objects.filter(pk=config.pk).update(lapsed_at=moment)
    assert not maps.due_lapses(moment)
    Rental.objects.filter(pk=rental.pk).update(closed_at=timezone.now())
    sweep_at(moment)
    assert AclConfig.objects.get(rental=rental).lapsed_at


def test_others_lapse_when_one_cannot_be_dealt_with(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = RentalFactory(days=200)
    RelayFactory(rental=other)
    maps.refresh_map(rental=other, reason=maps.RELAYS_CHANGED)
    first, record = active(rental), maps.record_lapse

    def fail_once(*, config: AclConfig, now: datetime) -> bool:
        if config.rental_id == rental.pk:
            raise RuntimeError
        return record(config=config, now=now)

    monkeypatch.setattr(maps, "record_lapse", fail_once)
    sweep_at(timezone.now() + VALID_FOR)
    assert list(AclConfig.objects.filter(lapsed_at__isnull=False).values_list("rental", flat=True)) == [
        other.pk
    ]
    assert f"lapses of map versions: row {first.pk} is put off" in caplog.text


# By hand


def test_new_version_is_made_when_the_customer_asks(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    with time_machine.travel(timezone.now() + timedelta(days=2)):
        answer = client.post(reverse("acl:map-renew"), follow=True)
    config = active(rental)
    assert (config.version, config.reason) == (2, maps.RENEWED)
    assert AclEvent.objects.get(version=2).by == rental.user
    assert OperationLog.objects.filter(action="map.renewed", actor=rental.user).count() == 1
    assert "2" in str(next(iter(answer.context["messages"])))
    assert client.get(reverse("acl:map-renew")).status_code == 405


def test_one_version_is_made_when_the_button_is_pressed_twice(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    page = client.get(reverse("acl:map-history"))
    (form,) = re.findall(r"<form[^>]*map/renew.*?</form>", page.text)
    assert "data-once" in form
    assert 'name="shown" value="1"' in form
    answers = [client.post(reverse("acl:map-renew"), {"shown": "1"}, follow=True) for _ in range(2)]
    assert active(rental).version == 2
    assert "changed meanwhile" in str(next(iter(answers[1].context["messages"])))
    client.post(reverse("acl:map-renew"), {"shown": "2"})
    assert active(rental).version == 3


def test_no_version_is_made_when_its_log_entry_cannot_be_written(
    rental: Rental, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(**_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(maps.downloads, "log_operation", die)
    with pytest.raises(SystemExit):
        maps.renew_map(rental=rental, by=rental.user)
    assert active(rental).version == 1


def test_map_is_withdrawn_when_renewing_finds_no_relay(rental: Rental) -> None:
    Relay.objects.update(status="released", slot=None)
    with pytest.raises(maps.DownloadRefused):
        maps.renew_map(rental=rental, by=rental.user)
    assert maps.active_config(rental) is None


def test_renewing_is_limited_when_a_customer_plays(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    statuses = [client.post(reverse("acl:map-renew")).status_code for _ in range(11)]
    assert statuses == [302] * 10 + [429]
    assert active(rental).version == 11


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda _rental: Rental.objects.update(paused_at=timezone.now()), "paused"),
        (lambda rental: set_paid(rental, None), "unpaid"),
        (lambda _rental: Relay.objects.update(status="released", slot=None), "no_map"),
    ],
)
def test_renewing_is_refused_when_there_is_no_ground(
    client: Client, rental: Rental, change: Callable[[Rental], Any], code: str
) -> None:
    change(rental)
    rental.refresh_from_db()
    with pytest.raises(maps.DownloadRefused) as refused:
        maps.renew_map(rental=rental, by=None)
    assert refused.value.code == code
    client.force_login(rental.user)
    answer = client.post(reverse("acl:map-renew"), follow=True)
    assert answer.status_code == 200
    assert AclConfig.objects.count() == 1


def test_admin_makes_a_version_by_his_button(
    client: Client, rental: Rental, monkeypatch: pytest.MonkeyPatch
) -> None:
    boss = UserFactory(role="admin")
    config = active(rental)
    where = reverse("admin:acl_aclconfig_act", args=[config.pk, "renew"])
    client.force_login(rental.user)
    assert client.post(where).status_code in {302, 403}
    monkeypatch.setattr(PanelAdminSite, "has_permission", lambda _site, request: request.user.is_staff)
    assert client.post(where).status_code in {302, 403}
    client.force_login(boss)
    assert client.get(where).status_code == 200
    assert active(rental).version == 1
    answer = client.post(where)
    assert answer["Location"] == reverse("admin:acl_aclconfig_change", args=[active(rental).pk])
    assert AclEvent.objects.get(version=2).by == boss
    assert active(rental).version == 2


def test_command_makes_a_version_or_says_why_not(rental: Rental) -> None:
    out = StringIO()
    call_command("acl_renew", rental.user.email.upper(), "--json", stdout=out)
    found = json.loads(out.getvalue())
    assert (found["email"], found["version"]) == (rental.user.email, 2)
    Rental.objects.update(paused_at=timezone.now())
    with pytest.raises(CommandError, match=r"暂停|paused"):
        call_command("acl_renew", rental.user.email)
    with pytest.raises(CommandError):
        call_command("acl_renew", "nobody@example.com")


# Closing


def test_maps_are_destroyed_when_the_account_is_closed(rental: Rental) -> None:
    take(rental)
    maps.record_event(rental=rental, kind="downloaded", version=1, ip="198.51.100.7", browser="Firefox")
    maps.create_live_url(rental=rental, by=rental.user)
    jobs.destroy_maps(rental.user_id)
    assert not maps.destroy_maps(rental=rental)
    assert active(rental).derp_map["Regions"]
    assert list(maps.closing_left(rental.user))
    Rental.objects.update(closed_at=timezone.now())
    assert not maps.destroy_maps(rental=rental)  # its relays may still answer
    Relay.objects.update(status="released", slot=None)
    type(rental.user).objects.filter(pk=rental.user_id).update(closing_at=timezone.now(), is_active=False)
    for _ in range(2):
        jobs.destroy_maps(rental.user_id)
    assert maps.active_config(rental) is None
    assert list(AclConfig.objects.values_list("version", "derp_map")) == [(1, derpmap.EMPTY_MAP)]
    assert not list(maps.closing_left(rental.user))
    assert AclEvent.objects.count() == 4
    assert not AclEvent.objects.exclude(ip=None, browser="").exists()
    url = LiveUrl.objects.get()
    assert (url.secret, url.revoked_at) == ("", None)
    copy = maps.read_copy(url.secret_hash)
    assert copy
    assert json.loads(copy.body) == derpmap.EMPTY_MAP
