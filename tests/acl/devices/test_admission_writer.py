"""What is written down of relays' questions and answers, whatever fails meanwhile."""

from datetime import timedelta

import pytest
import time_machine
from django.db import OperationalError
from django.utils import timezone

from acl.devices import admission_writer
from acl.devices.models import Admission, Device
from acl.devices.services import admission_rows, waiting_devices
from acl.devices.services.pace import Asked
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.asking import KEYS, A, B, C, approve, knock
from tests.acl.asking import relay as relay
from tests.acl.asking import rental as rental
from tests.factories import AdmissionFactory

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_was_asked_is_written_down_with_the_answer(rental: Rental, relay: Relay) -> None:
    [device] = approve(rental, A)
    for _ in range(3):
        knock(relay, A, "203.0.113.1")
    knock(relay, B, "203.0.113.2")
    assert Admission.objects.count() == 0  # not while it is answered
    assert admission_writer.flush() == 2
    rows = {row.node_key: row for row in Admission.objects.all()}
    assert (rows[A].is_allowed, rows[A].reason, rows[A].count, rows[A].ip) == (
        True,
        "approved",
        3,
        "203.0.113.1",
    )
    assert (rows[B].is_allowed, rows[B].reason, rows[B].count, rows[B].ip) == (
        False,
        "unknown",
        1,
        "203.0.113.2",
    )
    assert rows[A].relay == rows[B].relay == relay
    device.refresh_from_db()
    assert (device.last_ip, device.last_relay) == ("203.0.113.1", relay)
    assert device.first_seen_at == device.last_seen_at == rows[A].at
    knocking = Device.objects.get(status=Device.Status.PENDING)
    assert (knocking.node_key, knocking.last_ip, knocking.knocks) == (B, "203.0.113.2", 1)


def test_the_log_survives_a_database_that_is_away(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(rental, A)
    knock(relay, A)

    def away(*args: object) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(admission_writer, "record_admissions", away)
        assert admission_writer.flush() == 0
    knock(relay, A)
    assert admission_writer.flush() == 1
    assert Admission.objects.get().count == 2


@pytest.mark.parametrize("error", [OperationalError("deadlock"), ValueError("odd")])
def test_a_question_is_written_once_though_the_list_of_who_waits_fails(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    approve(rental, A)
    knock(relay, A)
    knock(relay, B)

    def fail(asked: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(admission_rows, "_note_waiting", fail)
        admission_writer.flush()
        assert not Admission.objects.exists()
    admission_writer.flush()
    assert Admission.objects.count() == (2 if isinstance(error, OperationalError) else 0)
    # What is odd is given up, and nothing that comes later with it.
    knock(relay, C)
    assert admission_writer.flush() == 1


def test_one_odd_question_takes_no_other_with_it(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = admission_rows.record_admissions

    def refuse_one(asked: list[Asked]) -> None:
        if any(one.node_key == B for one in asked):
            raise ValueError("odd")
        record(asked)

    monkeypatch.setattr(admission_writer, "record_admissions", refuse_one)
    for key in KEYS[:9]:
        knock(relay, key)
    assert admission_writer.flush() == 8
    assert set(Admission.objects.values_list("node_key", flat=True)) == {*KEYS[:9]} - {B}
    assert "1 admissions were answered but not written down" in caplog.text


def test_when_a_device_was_seen_is_written_later_when_it_cannot_be_now(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    [device] = approve(rental, A)
    knock(relay, A)

    def away(*args: object) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(admission_writer, "record_seen", away)
        admission_writer.flush()
    admission_writer.flush()
    device.refresh_from_db()
    assert device.last_ip == "203.0.113.9"


def test_only_so_many_wait_and_whoever_comes_again_stays(rental: Rental, relay: Relay) -> None:
    knock(relay, A)
    admission_writer.flush()
    knock(relay, A)
    admission_writer.flush()
    for key in KEYS[1 : waiting_devices.MOST_WAITING + 10]:
        knock(relay, key, "203.0.113.77")
        admission_writer.flush()
    known = Device.objects.filter(status=Device.Status.PENDING)
    assert known.count() == waiting_devices.MOST_WAITING
    assert known.get(node_key=A).knocks == 2


def test_old_admissions_are_forgotten(rental: Rental, relay: Relay) -> None:
    from acl.devices.services.admission_rows import forget_admissions

    approve(rental, A)
    with time_machine.travel(timezone.now() - timedelta(days=31), tick=False):
        AdmissionFactory(relay=relay, rental=rental, node_key=A, is_allowed=True, reason="approved")
    AdmissionFactory(relay=relay, rental=rental, node_key=A, is_allowed=True, reason="approved")
    assert forget_admissions(timezone.now()) == 1
    assert forget_admissions(timezone.now()) == 0
    assert Admission.objects.count() == 1
