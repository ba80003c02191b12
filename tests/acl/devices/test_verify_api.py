"""What the API says about a device that would knock is what it is told when it does; and asking changes nothing."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.db.models import F
from django.utils import timezone

from accounts import services as accounts
from acl.devices import admission_writer, sources
from acl.devices.models import Device, DevicePolicy
from acl.devices.services import enrolment, give_place, open_window, revoke_device, set_open
from acl.maps import services as maps
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from tests.acl.asking import KEYS, A, B, approve, knock, relay, rental
from tests.api import Api
from tests.factories import DeviceFactory, RelayFactory, RentalFactory, UserFactory

pytestmark = pytest.mark.django_db(transaction=True)

__all__ = ["relay", "rental"]
NOW = timezone.now


def foresee(rental: Rental, node_key: str = A, **more: Any) -> dict[str, Any]:
    staff = Api(UserFactory(role="admin", language="en"))
    answer = staff.post("acl/verify", {"user_id": rental.user_id, "node_key": f"nodekey:{node_key}", **more})
    assert answer.status_code == 200, answer.json()
    return dict(answer.json())


def rows() -> dict[str, list[Any]]:
    return {
        model._meta.label: list(model._default_manager.order_by("pk").values_list())
        for model in apps.get_models()
        if model._meta.app_label in {"acl", "containers", "serials"}
    }


def window(rental: Rental) -> None:
    open_window(rental=rental, length=timedelta(hours=1), by=rental.user)


def on_trial(rental: Rental) -> None:
    window(rental)
    DeviceFactory(
        rental=rental,
        node_key=A,
        trial_until=NOW() + timedelta(minutes=4),
        first_seen_at=NOW(),
        came_from="203.0.113.9",
    )


def came_again(rental: Rental) -> None:
    on_trial(rental)
    Device.objects.update(first_seen_at=NOW() - enrolment.AGAIN_AFTER)


def full(rental: Rental) -> None:
    window(rental)
    approve(rental, B)
    RentalSpan.objects.update(device_limit=1)


def crowded(rental: Rental) -> None:
    window(rental)
    for key in KEYS[10 : 10 + enrolment.TRIALS_PER_RENTAL]:
        DeviceFactory(
            rental=rental, node_key=key, trial_until=NOW() + timedelta(minutes=4), came_from=key[:8]
        )


def opened(rental: Rental) -> None:
    set_open(rental=rental, is_open=True, by=rental.user)


def open_but_revoked(rental: Rental) -> None:
    opened(rental)
    DeviceFactory(rental=rental, node_key=A, status=Device.Status.REVOKED)


def opening_not_sold(rental: Rental) -> None:
    opened(rental)
    RentalSpan.objects.update(may_open=False)


def revoked(rental: Rental) -> None:
    revoke_device(device=approve(rental, A)[0], by=None)


def replaced(rental: Rental) -> None:
    [old] = approve(rental, A)
    give_place(device=old, to=DeviceFactory(rental=rental, node_key=B), by=None)


def source_knew_it(rental: Rental) -> None:
    DeviceFactory(rental=rental, node_key=A, approved=True, source=Device.Source.VERIFY_URL)


def source_is_silent(rental: Rental) -> None:
    source_knew_it(rental)
    DevicePolicy.objects.update(verify_url="https://hs.example.com/verify")


CASES: dict[str, tuple[Callable[[Rental], Any], bool, str]] = {
    "an unknown one": (lambda _rental: None, False, "unknown"),
    "an approved one": (lambda rental: approve(rental, A), True, "approved"),
    "one that waits": (lambda rental: DeviceFactory(rental=rental, node_key=A), False, "unknown"),
    "a revoked one": (revoked, False, "revoked"),
    "one that gave its place": (replaced, False, "revoked"),
    "a new one while the window is open": (window, True, "provisional"),
    "one on trial": (on_trial, True, "provisional"),
    "one that comes again": (came_again, True, "enrolled"),
    "a new one without a place": (full, False, "full"),
    "a new one among too many": (crowded, False, "crowded"),
    "anyone where devices are not checked": (opened, True, "open"),
    "a revoked one where devices are not checked": (open_but_revoked, False, "revoked"),
    "one where that is not sold": (opening_not_sold, False, "unknown"),
    "one that the own address knew": (source_knew_it, True, "verify-url"),
    "one that the own address knew, which is silent": (source_is_silent, True, "verify-url"),
    "after the end": (lambda _rental: Rental.objects.update(runs_until=F("created_at")), False, "ended"),
    "while it is paused": (lambda _rental: Rental.objects.update(paused_at=NOW()), False, "ended"),
    "of somebody banned": (lambda rental: accounts.ban_user(user=rental.user, by=None), False, "barred"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_admission_says_and_writes_nothing(
    rental: Rental, relay: Relay, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, is_allowed, reason = CASES[case]
    asked: list[str] = []

    def silence(**question: Any) -> sources.Answer:
        asked.append(question["node_key"])
        return sources.Answer(sources.Verdict.SILENT, "")

    monkeypatch.setattr(sources, "ask_verify_url", silence)
    told: list[str] = []
    monkeypatch.setattr(admission_writer, "record", lambda question: told.append(str(question.reason.value)))
    prepare(rental)
    before = rows()
    for more in ({}, {"relay_id": relay.pk}):
        found = foresee(rental, **more)
        assert (found["allowed"], found["reason"]) == (is_allowed, reason)
    assert rows() == before
    assert asked == []
    assert knock(relay, A) == (200, is_allowed)
    assert told == [reason]


def test_the_reason_is_a_sentence_and_the_map_is_named(rental: Rental, relay: Relay) -> None:
    config = maps.refresh_map(rental=rental, reason=maps.RELAYS_CHANGED)
    assert config is not None
    found = foresee(rental)
    assert (found["message"], found["reason_text"]) == (
        "The device is not let in: unknown device.",
        "unknown device",
    )
    assert (found["version"], found["end"][:19]) == (1, config.ends_at.isoformat()[:19])
    words = Api(rental.user, language="zh-hans").post("acl/verify", {"node_key": A}).json()["message"]
    assert words == "此设备不能接入：未知设备。"


def test_whose_it_is_and_what_is_no_key_or_relay_of_theirs(rental: Rental, relay: Relay) -> None:
    other, own = RentalFactory(), Api(rental.user)
    answer = Api(other.user).post("acl/verify", {"user_id": rental.user_id, "node_key": A})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    gone = RelayFactory(rental=rental, slot=None, status=Relay.Status.RELEASED)
    throwaway = RelayFactory(rental=None, slot=None)
    for pk in (RelayFactory(rental=other).pk, gone.pk, throwaway.pk, 10**9):
        answer = own.post("acl/verify", {"node_key": A, "relay_id": pk})
        assert (answer.status_code, answer.json()["field"]) == (404, "relay_id")
    for wrong in ("nas", "0" * 64, "mkey:" + A, A[:-1]):
        answer = own.post("acl/verify", {"node_key": wrong})
        assert (answer.status_code, answer.json()["field"]) == (422, "node_key")
    assert own.post("acl/verify", {}).json()["field"] == "node_key"


def test_without_a_rental_nobody_is_let_in() -> None:
    stranger = Api(UserFactory(language="en"))
    found = stranger.post("acl/verify", {"node_key": A}).json()
    assert (found["allowed"], found["reason"], found["version"]) == (False, "ended", None)
    relay = RelayFactory(rental=None, slot=None)
    assert stranger.post("acl/verify", {"node_key": A, "relay_id": relay.pk}).status_code == 404
