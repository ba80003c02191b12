"""Making serial numbers, and what operators do with them."""

from collections.abc import Collection
from datetime import date, datetime

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import NotAllowed, log_operation
from derpmgmt.lib.crypto import keyed_hash
from fleet.models import Server
from serials.numbers import codes
from serials.numbers.models import SerialBatch, SerialNumber
from serials.numbers.services.refusals import SerialRecalled, SerialRefused, SerialUsed
from serials.rentals.models import Redemption

_INSERT_AT_ONCE = 500


def code_hash(code: str) -> str:
    """What a normalized code is looked up by."""
    return keyed_hash("serial", code)


def today(now: datetime) -> date:
    """The day in the panel's time zone, by which serial numbers expire."""
    return timezone.localdate(now, timezone.get_default_timezone())


def _ask_staff(by: User | None) -> None:
    if by is not None and not (by.is_staff and by.is_active):
        raise NotAllowed(_("Only admins handle serial numbers."))


def _ask_superadmin(by: User | None) -> None:
    if by is not None and not (by.is_superuser and by.is_active):
        raise NotAllowed(_("Only a super admin says whether serial numbers are paid for."))


def check_batch(*, redeem_by: date | None, servers: Collection[Server]) -> None:
    """The rules of a new batch that lie between fields; raises `ValidationError`."""
    errors = {}
    if 0 < len(set(servers)) < SerialBatch.FEWEST_SERVERS:
        errors["servers"] = _("Choose at least three servers, or none for all.")
    if redeem_by is not None and redeem_by < today(timezone.now()):
        errors["redeem_by"] = _("This day is over.")
    if errors:
        raise ValidationError(errors)


@transaction.atomic
def create_batch(
    *,
    name: str,
    days: int,
    count: int,
    by: User | None,
    is_paid: bool,
    redeem_by: date | None = None,
    servers: Collection[Server] = (),
    **entitlement: int | str | None,
) -> SerialBatch:
    """Make `count` unused serial numbers of `days` whole days each.

    `by` None is the console or an order. `entitlement` may hold the fields of `Entitlement`; what is missing is its
    default. Raises `NotAllowed` (not staff, or paid without being a super admin) and `ValidationError`.
    """
    _ask_staff(by)
    if is_paid:
        _ask_superadmin(by)
    check_batch(redeem_by=redeem_by, servers=servers)
    now = timezone.now()
    batch = SerialBatch(
        name=name,
        days=days,
        count=count,
        redeem_by=redeem_by,
        paid_at=now if is_paid else None,
        created_by=by,
        **entitlement,
    )
    batch.full_clean()
    batch.save()
    batch.servers.set(servers)
    made = [codes.generate() for _number in range(count)]
    SerialNumber.objects.bulk_create(
        [
            SerialNumber(batch=batch, code=code, code_hash=code_hash(code), code_end=code[-4:])
            for code in made
        ],
        batch_size=_INSERT_AT_ONCE,
    )
    log_operation(
        by=by, action="batch.created", target=batch, batch=batch.pk, days=days, count=count, is_paid=is_paid,
        redeem_by=redeem_by.isoformat() if redeem_by else None, servers=[server.name for server in servers],
    )  # fmt: skip
    return batch


@transaction.atomic
def mark_batch_paid(*, batch: SerialBatch, by: User | None) -> bool:
    """Let its serial numbers be redeemed; False when it was paid already. Raises `NotAllowed`.

    `by` None is the console or an order that was paid.
    """
    _ask_superadmin(by)
    changed = SerialBatch.objects.filter(pk=batch.pk, paid_at=None).update(paid_at=timezone.now())
    if changed:
        Redemption.objects.filter(serial__batch=batch).update(unpaid_since=None)
        log_operation(by=by, action="batch.paid", target=batch, batch=batch.pk)
    return bool(changed)


@transaction.atomic
def mark_batch_unpaid(*, batch: SerialBatch, by: User | None) -> bool:
    """Stop redeeming and, for time that is running, downloads; False when it was unpaid already. Raises `NotAllowed`.

    Relays that run go on until an admin acts.
    """
    _ask_superadmin(by)
    changed = SerialBatch.objects.filter(pk=batch.pk, paid_at__isnull=False).update(paid_at=None)
    if changed:
        Redemption.objects.filter(serial__batch=batch).update(unpaid_since=timezone.now())
        log_operation(by=by, action="batch.unpaid", target=batch, batch=batch.pk)
    return bool(changed)


@transaction.atomic
def recall_serial(*, serial: SerialNumber, by: User | None) -> None:
    """Take an unused serial number back for good.

    Raises `SerialUsed`, `SerialRecalled` or `SerialRefused` when it is not unused (any more), and `NotAllowed`.
    """
    _ask_staff(by)
    status = SerialNumber.Status
    if not SerialNumber.objects.unused().filter(pk=serial.pk).update(status=status.RECALLED):
        serial.refresh_from_db(fields=["status"])
        raise {status.USED: SerialUsed, status.RECALLED: SerialRecalled}.get(
            status(serial.status), SerialRefused
        )()
    log_operation(by=by, action="serial.recalled", target=serial, batch=serial.batch_id)


def search_serials(serials: QuerySet[SerialNumber], text: str) -> QuerySet[SerialNumber]:
    """Those of `serials` that somebody looks for: by a whole code, its last four characters, or the customer's address."""
    code = codes.normalize(text)
    if not code:
        return serials
    if codes.is_well_typed(code):
        return serials.filter(code_hash=code_hash(code))
    by_customer = Q(redemption__rental__user__email__icontains=text.strip())
    return serials.filter(Q(code_end=code[-4:]) | by_customer)


def reveal_code(*, serial: SerialNumber, by: User | None, ip: str | None = None) -> str:
    """The whole code in groups, for an admin; logged. Raises `NotAllowed`."""
    _ask_staff(by)
    log_operation(by=by, action="serial.revealed", target=serial, ip=ip, batch=serial.batch_id)
    return codes.group(serial.code)


def reveal_batch(*, batch: SerialBatch, by: User | None, ip: str | None = None) -> list[SerialNumber]:
    """All serial numbers of a batch in the order they were made, with readable `code`; logged. Raises `NotAllowed`."""
    _ask_staff(by)
    serials = list(batch.serials.order_by("pk"))
    log_operation(by=by, action="batch.revealed", target=batch, ip=ip, batch=batch.pk, count=len(serials))
    return serials


def expire_serials(*, now: datetime) -> int:
    """Mark unused serial numbers whose last day is over; returns how many. They are refused before this runs, too."""
    # Two steps: MariaDB would look at every unused serial number to update those of a subquery's batches.
    unused = SerialNumber.objects.unused().filter(batch=OuterRef("pk"))
    over = list(
        SerialBatch.objects.filter(Exists(unused), redeem_by__lt=today(now)).values_list("pk", flat=True)
    )
    if not over:
        return 0
    return SerialNumber.objects.unused().filter(batch__in=over).update(status=SerialNumber.Status.EXPIRED)
