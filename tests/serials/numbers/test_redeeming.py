"""Redeeming at the services: what moves, what is refused, what is written down."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest
import time_machine
from django.core.exceptions import ValidationError

from accounts.models import OperationLog, User
from accounts.services import NotAllowed, ban_user
from fleet.models import Server
from serials.numbers import codes
from serials.numbers import services as serials
from serials.numbers.models import SerialBatch, SerialNumber
from serials.numbers.services import redeeming
from serials.rentals import services as rentals
from serials.rentals.models import Redemption, Rental
from tests.factories import RelayFactory, SerialBatchFactory, SerialNumberFactory, UserFactory

NOON = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)  # 12:00 in Shanghai

pytestmark = pytest.mark.usefixtures("english")


def redeem(serial: SerialNumber, user: User, **options: bool) -> Redemption:
    return serials.redeem_serial(code=serial.code, user=user, by=user, ip="198.51.100.7", **options)


def spans(rental: Rental) -> list[tuple[float, float, int]]:
    """Each span as days from NOON and its device limit."""
    return [
        (
            (span.starts_at - NOON) / timedelta(days=1),
            (span.ends_at - NOON) / timedelta(days=1),
            span.device_limit,
        )
        for span in rental.spans.all()
    ]


@time_machine.travel(NOON, tick=False)
def test_rental_starts_when_the_first_serial_is_redeemed(
    customer: User, announced: list[tuple[str, int]]
) -> None:
    serial = SerialNumberFactory(days=30, device_limit=7)
    redemption = redeem(serial, customer)
    rental = customer.rental
    assert spans(rental) == [(0, 30, 7)]
    assert rental.ends_at == NOON + timedelta(days=30)
    assert (redemption.old_ends_at, redemption.new_ends_at) == (None, rental.ends_at)
    assert (redemption.granted_seconds, redemption.by, redemption.serial) == (30 * 86400, customer, serial)
    assert rental.waiting_since == NOON
    assert [fact for fact in announced if fact[0] != "notice_made"] == [("rental_changed", rental.pk)]
    serial.refresh_from_db()
    assert (serial.status, serial.redeemed_at) == ("used", NOON)


@time_machine.travel(NOON, tick=False)
def test_rental_is_extended_from_its_end_when_it_has_time_left(customer: User) -> None:
    redeem(SerialNumberFactory(days=30), customer)
    with time_machine.travel(NOON + timedelta(days=10), tick=False):
        redemption = redeem(SerialNumberFactory(days=5), customer)
    assert spans(customer.rental) == [(0, 30, 20), (30, 35, 20)]
    assert redemption.old_ends_at == NOON + timedelta(days=30)
    assert redemption.new_ends_at == NOON + timedelta(days=35)


@time_machine.travel(NOON, tick=False)
def test_rental_starts_anew_when_it_had_ended(customer: User) -> None:
    redeem(SerialNumberFactory(days=1), customer)
    Rental.objects.update(status=Rental.Status.EXPIRED, waiting_since=None)
    later = NOON + timedelta(days=9)
    with time_machine.travel(later, tick=False):
        redeem(SerialNumberFactory(days=2), customer)
    rental = Rental.objects.get()
    assert spans(rental) == [(0, 1, 20), (9, 11, 20)]
    assert (rental.status, rental.waiting_since) == ("active", later)


@time_machine.travel(NOON, tick=False)
def test_old_time_follows_when_the_new_starts_now(customer: User, servers: list[Server]) -> None:
    redeem(SerialNumberFactory(days=30, device_limit=5), customer)
    with time_machine.travel(NOON + timedelta(days=10), tick=False):
        redeem(SerialNumberFactory(days=3, device_limit=50, servers=servers[:3]), customer, start_now=True)
        rental = Rental.objects.get()
        assert spans(rental) == [(0, 10, 5), (10, 13, 50), (13, 33, 5)]
        now = NOON + timedelta(days=10)
        assert rentals.bound_servers(rental, now) == {server.pk for server in servers[:3]}
        assert rentals.bound_servers(rental, now + timedelta(days=4)) is None
        span = rentals.current_span(rental, now)
        assert span is not None
        assert span.device_limit == 50
    assert rental.ends_at == NOON + timedelta(days=33)


@time_machine.travel(NOON, tick=False)
def test_time_follows_the_pause_when_the_rental_is_paused(customer: User) -> None:
    redeem(SerialNumberFactory(days=30, device_limit=5), customer)
    Rental.objects.update(paused_at=NOON + timedelta(days=10))
    with time_machine.travel(NOON + timedelta(days=90), tick=False):
        redeem(SerialNumberFactory(days=3, device_limit=50), customer, start_now=True)
    assert spans(Rental.objects.get()) == [(0, 10, 5), (10, 13, 50), (13, 33, 5)]


@time_machine.travel(NOON, tick=False)
def test_preview_is_what_redeeming_does(customer: User) -> None:
    first = serials.preview_redemption(serial=SerialNumberFactory(days=30), user=customer, now=NOON)
    assert (first.old_ends_at, first.new_ends_at, first.is_different) == (
        None,
        NOON + timedelta(days=30),
        False,
    )
    redeem(SerialNumberFactory(days=30, device_limit=5), customer)
    same = serials.preview_redemption(
        serial=SerialNumberFactory(days=1, device_limit=5), user=customer, now=NOON
    )
    assert not same.is_different
    other = serials.preview_redemption(
        serial=SerialNumberFactory(days=2, device_limit=9), user=customer, now=NOON
    )
    assert other.is_different
    assert [
        (part.is_new, part.terms.device_limit, (part.ends_at - NOON).days) for part in other.afterwards
    ] == [
        (False, 5, 30),
        (True, 9, 32),
    ]
    assert [
        (part.is_new, part.terms.device_limit, (part.ends_at - NOON).days) for part in other.immediately
    ] == [
        (True, 9, 2),
        (False, 5, 32),
    ]
    assert Rental.objects.get().ends_at == NOON + timedelta(days=30)


def test_each_refusal_has_its_own_kind_and_sentence(customer: User) -> None:
    other = UserFactory(email="wang@example.com")
    fresh, mine, used, recalled, unpaid = (SerialNumberFactory() for _ in range(5))
    redeem(mine, customer)
    redeem(used, other)
    serials.recall_serial(serial=recalled, by=None)
    serials.mark_batch_unpaid(batch=unpaid.batch, by=None)
    over = SerialNumberFactory()
    SerialBatch.objects.filter(pk=over.batch_id).update(redeem_by=date(2026, 1, 1))
    marked = SerialNumberFactory()
    SerialBatch.objects.filter(pk=marked.batch_id).update(redeem_by=date(2026, 1, 1))
    serials.expire_serials(now=NOON)
    over_unmarked = SerialNumber.objects.filter(pk=over.pk)
    over_unmarked.update(status="unused")
    cases = {
        fresh.code[:-1] + ("0" if fresh.code[-1] != "0" else "1"): serials.SerialMistyped,
        codes.generate(): serials.SerialUnknown,
        mine.code: serials.AlreadyRedeemed,
        used.code: serials.SerialUsed,
        recalled.code: serials.SerialRecalled,
        unpaid.code: serials.SerialUnpaid,
        over.code: serials.SerialExpired,
        marked.code: serials.SerialExpired,
    }
    sentences = set()
    for code, kind in cases.items():
        with pytest.raises(serials.SerialRefused) as refused:
            serials.redeem_serial(code=code, user=customer, by=customer, ip="198.51.100.7")
        assert type(refused.value) is kind
        sentences.add(str(refused.value))
        entry = OperationLog.objects.filter(action="serial.refused").latest("pk")
        assert (entry.is_success, entry.subject, entry.detail["reason"]) == (
            False,
            customer,
            refused.value.code,
        )
        assert code not in f"{entry.target} {json.dumps(entry.detail)}"
    assert len(sentences) == len(cases) - 1
    assert Redemption.objects.filter(rental__user=customer).count() == 1
    assert redeem(fresh, customer)


def test_last_day_counts_in_shanghai_when_it_is_still_yesterday_in_utc(customer: User) -> None:
    with time_machine.travel(NOON, tick=False):
        punctual, late = (SerialNumberFactory(redeem_by=date(2026, 3, 10)) for _ in range(2))
    with time_machine.travel(datetime(2026, 3, 10, 15, 59, 59, tzinfo=UTC), tick=False):
        redeem(punctual, customer)
    with (
        time_machine.travel(datetime(2026, 3, 10, 16, 0, tzinfo=UTC), tick=False),
        pytest.raises(serials.SerialExpired),
    ):
        redeem(late, customer)
    assert serials.expire_serials(now=datetime(2026, 3, 10, 15, 59, tzinfo=UTC)) == 0
    assert serials.expire_serials(now=datetime(2026, 3, 10, 16, 0, tzinfo=UTC)) == 1
    assert set(SerialNumber.objects.values_list("status", flat=True)) == {"used", "expired"}


def test_nothing_is_redeemed_when_the_account_is_barred(customer: User) -> None:
    serial = SerialNumberFactory()
    ban_user(user=customer, by=None)
    with pytest.raises(rentals.AccountBarred):
        redeem(serial, customer)
    serial.refresh_from_db()
    assert serial.status == "unused"
    assert not Rental.objects.exists()


def test_serial_is_free_again_when_the_rental_is_closed(customer: User) -> None:
    redeem(SerialNumberFactory(), customer)
    Rental.objects.update(closed_at=NOON)
    serial = SerialNumberFactory()
    with pytest.raises(rentals.AccountBarred):
        redeem(serial, customer)
    serial.refresh_from_db()
    assert serial.status == "unused"


@pytest.mark.parametrize(
    ("lost_as", "kind"), [("used", serials.SerialUsed), ("recalled", serials.SerialRecalled)]
)
def test_claim_is_refused_when_another_was_quicker(
    customer: User, monkeypatch: pytest.MonkeyPatch, lost_as: str, kind: type[Exception]
) -> None:
    """Between the look-up and the claim somebody else redeems it, or an admin takes it back."""
    find = redeeming.find_serial

    def find_then_lose(code: str, *, user: User | None = None) -> SerialNumber:
        serial = find(code, user=user)
        SerialNumber.objects.filter(pk=serial.pk).update(status=lost_as)
        return serial

    monkeypatch.setattr(redeeming, "find_serial", find_then_lose)
    with pytest.raises(kind):
        redeem(SerialNumberFactory(), customer)
    assert not Redemption.objects.exists()


def test_success_is_logged_without_the_code(customer: User) -> None:
    serial = SerialNumberFactory()
    redeem(serial, customer)
    entry = OperationLog.objects.get(action="serial.redeemed")
    assert (entry.actor, entry.subject, entry.ip, entry.target) == (
        customer,
        customer,
        "198.51.100.7",
        serial.masked,
    )
    assert serial.code not in json.dumps(entry.detail)
    assert entry.detail["code_hash"] == serial.code_hash[:12]


class TestWaitingTime:
    @time_machine.travel(NOON, tick=False)
    def test_it_is_given_back_once_when_the_first_relay_is_proven(self, customer: User) -> None:
        redeem(SerialNumberFactory(days=30, device_limit=5), customer)
        redeem(SerialNumberFactory(days=10, device_limit=9), customer)
        rental = Rental.objects.get()
        proven = NOON + timedelta(seconds=40, milliseconds=300)
        credited = rentals.credit_waiting_time(rental_pk=rental.pk, now=proven)
        assert credited is not None
        assert (credited.kind, credited.granted_seconds) == ("waiting", 41)
        rental.refresh_from_db()
        assert rental.waiting_since is None
        assert rental.ends_at == NOON + timedelta(days=40, seconds=41)
        assert [span.redemption.kind for span in rental.spans.all()] == ["serial", "serial"]
        assert rentals.credit_waiting_time(rental_pk=rental.pk, now=proven) is None
        assert Redemption.objects.filter(kind="waiting").count() == 1

    @time_machine.travel(NOON, tick=False)
    def test_nothing_waits_when_a_relay_is_running(self, customer: User, servers: list[Server]) -> None:
        redeem(SerialNumberFactory(days=1), customer)
        Rental.objects.update(waiting_since=None)
        RelayFactory(rental=Rental.objects.get(), server=servers[0])
        with time_machine.travel(NOON + timedelta(days=2), tick=False):
            redeem(SerialNumberFactory(days=1), customer)
        assert Rental.objects.get().waiting_since is None

    @time_machine.travel(NOON, tick=False)
    def test_it_counts_only_paid_time_when_the_rental_ended_meanwhile(self, customer: User) -> None:
        redeem(SerialNumberFactory(days=1), customer)
        later = NOON + timedelta(days=5)
        with time_machine.travel(later, tick=False):
            redeem(SerialNumberFactory(days=1), customer)
        rental = Rental.objects.get()
        credited = rentals.credit_waiting_time(rental_pk=rental.pk, now=later + timedelta(hours=1))
        assert credited is not None
        assert credited.granted_seconds == 86400 + 3600

    @time_machine.travel(NOON, tick=False)
    def test_it_ends_with_the_pause_or_the_end_when_they_came_first(self, customer: User) -> None:
        redeem(SerialNumberFactory(days=1), customer)
        rental = Rental.objects.get()
        Rental.objects.update(paused_at=NOON + timedelta(hours=2))
        credited = rentals.credit_waiting_time(rental_pk=rental.pk, now=NOON + timedelta(days=9))
        assert credited is not None
        assert credited.granted_seconds == 7200


class TestBatches:
    def test_codes_are_stored_unreadable_when_a_batch_is_made(self, db: None) -> None:
        from django.db import connection

        batch = SerialBatchFactory(count=3)
        made = list(batch.serials.all())
        with connection.cursor() as cursor:
            cursor.execute("SELECT code, code_hash, code_end FROM serials_serialnumber")
            stored = repr(cursor.fetchall())
        for serial in made:
            assert codes.is_well_typed(serial.code)
            assert serial.code not in stored
            assert serials.find_serial(codes.group(serial.code).lower()) == serial
        assert not any(
            serial.code in json.dumps(entry.detail) for entry in OperationLog.objects.all() for serial in made
        )

    @pytest.mark.parametrize(
        "wrong",
        [{"days": 0}, {"days": 3661}, {"count": 0}, {"count": 10001}, {"redeem_by": date(2020, 1, 1)}, {"at_quota": "?"}, {"name": ""}],
    )  # fmt: skip
    def test_batch_is_refused_when_a_value_is_out_of_bounds(self, db: None, wrong: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            SerialBatchFactory(**wrong)
        assert not SerialBatch.objects.exists()

    def test_batch_is_refused_when_bound_to_fewer_than_three_servers(
        self, db: None, servers: list[Server]
    ) -> None:
        with pytest.raises(ValidationError):
            SerialBatchFactory(servers=[servers[0], servers[1], servers[0]])
        assert SerialBatchFactory(servers=servers[:3]).servers.count() == 3

    def test_only_super_admins_say_what_is_paid(self, db: None) -> None:
        admin = UserFactory(email="admin@example.com", role=User.Role.ADMIN)
        chief = UserFactory(email="chief@example.com", role=User.Role.SUPERADMIN)
        customer = UserFactory(email="customer@example.com")
        with pytest.raises(NotAllowed):
            SerialBatchFactory(by=admin, is_paid=True)
        with pytest.raises(NotAllowed):
            SerialBatchFactory(by=customer, is_paid=False)
        batch = SerialBatchFactory(by=admin, is_paid=False)
        for act in (serials.mark_batch_paid, serials.mark_batch_unpaid):
            with pytest.raises(NotAllowed):
                act(batch=batch, by=admin)
        assert serials.mark_batch_paid(batch=batch, by=chief)
        assert not serials.mark_batch_paid(batch=batch, by=chief)
        assert serials.mark_batch_unpaid(batch=batch, by=chief)
        serial = batch.serials.get()
        for act in (serials.recall_serial, serials.reveal_code):
            with pytest.raises(NotAllowed):
                act(serial=serial, by=customer)

    def test_time_is_unpaid_when_its_batch_is_set_back(self, customer: User) -> None:
        with time_machine.travel(NOON, tick=False):
            first, second = SerialNumberFactory(days=1), SerialNumberFactory(days=1)
            redeem(first, customer)
            redeem(second, customer)
        rental = Rental.objects.get()
        serials.mark_batch_unpaid(batch=first.batch, by=None)
        assert not rentals.is_paid(rental, NOON)
        assert rentals.is_paid(rental, NOON + timedelta(days=1, hours=1))
        assert not rentals.is_paid(rental, NOON + timedelta(days=3))

    def test_serial_stays_used_when_it_is_recalled_too_late(self, customer: User) -> None:
        serial = SerialNumberFactory()
        redeem(serial, customer)
        with pytest.raises(serials.SerialUsed):
            serials.recall_serial(serial=serial, by=None)

    def test_reveal_is_logged_without_the_code(self, db: None) -> None:
        serial = SerialNumberFactory()
        assert serials.reveal_code(serial=serial, by=None, ip="198.51.100.7") == codes.group(serial.code)
        entry = OperationLog.objects.get(action="serial.revealed")
        assert (entry.target, entry.ip) == (serial.masked, "198.51.100.7")
