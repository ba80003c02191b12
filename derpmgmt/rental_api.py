"""Redeeming by the JSON API, with an answer that waits until the relays are proven: serial numbers and relays together."""

from django.utils import timezone
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.repeats import HEADER
from accounts.access.rooms import Room, accepted
from accounts.access.subjects import find_person
from containers.decisions import SLOTS
from containers.models import Relay
from derpmgmt.lib.api import Answer, Input, Moment, NotFound, Pk, Wait, wait_for
from serials.numbers.api import Code, redeem_for
from serials.rentals.api import RentalShown, describe_rental
from serials.rentals.models import Redemption, Rental
from serials.rentals.wording import moves_on

serial = Room("serial")


class Activating(Input):
    """A serial number that is redeemed."""

    user_id: Pk | None = Field(None, description="For whom; without it for oneself. For operators.")
    serial_code: Code
    start_now: bool = Field(
        default=False,
        description="Whether its time starts at once, and what is left follows; else it starts where the rental ends.",
    )


class Activated(Answer):
    """What a redeemed serial number gave, and how far its relays are."""

    activation_id: Pk = Field(examples=[5])
    rental: RentalShown
    new_expiry_time: Moment = Field(description="When the rental ends now.")
    relays_proven: int = Field(description="Relays that have carried a packet and run.", examples=[3])
    relays_wanted: int = Field(examples=[3])
    is_ready: bool = Field(
        description="Whether all of them run, or none is to, since the time does not run (a pause, an end)."
    )
    follow: str = Field(
        description="Where to ask how far it is; with `wait`, once it is done.",
        examples=["/api/v1/serial/activation/5"],
    )


@serial.does("/activate", Activated, creates=True, later=True)
def serial_activate(request: ApiRequest, body: Activating, wait: Wait = 0) -> Activated:
    """Redeem a serial number. 202 until three relays have carried a packet: follow, or `wait`.

    With an `Idempotency-Key` the answer comes at once, whatever `wait` says, so that it can be kept: follow it with `wait` then.
    """
    person = find_person(request, body.user_id, acts=True)
    redemption, message = redeem_for(request, person, body.serial_code, start_now=body.start_now)
    if redemption.rental.paused_at is not None:
        message = f"{message} {moves_on()}"
    return _answer(redemption, message, 0 if HEADER in request.headers else wait)


@serial.reads("/activation/{activation_id}", Activated, later=True)
def serial_activation(request: ApiRequest, activation_id: Pk, wait: Wait = 0) -> Activated:
    """How far the relays of a redeemed serial number are. 202 until three have carried a packet."""
    rows = Redemption.objects.visible_to(request.user).select_related("rental")
    redemption = rows.filter(pk=activation_id, kind=Redemption.Kind.SERIAL).first()
    if redemption is None:
        raise NotFound
    return _answer(redemption, "", wait)


def _answer(redemption: Redemption, message: str, wait: int) -> Activated:
    proven = wait_for(lambda: _all_proven(redemption.rental_id), wait)
    rental = Rental.objects.get(pk=redemption.rental_id)
    number = len(SLOTS) if proven else _count_proven(rental.pk)
    now = timezone.now()
    assert rental.ends_at is not None
    answer = Activated(
        message=message,
        activation_id=redemption.pk,
        rental=describe_rental(rental, now),
        new_expiry_time=rental.ends_at,
        relays_proven=number,
        relays_wanted=len(SLOTS),
        is_ready=number == len(SLOTS) or not rental.has_rights(now),
        follow=f"/api/v1/serial/activation/{redemption.pk}",
    )
    return answer if answer.is_ready else accepted(answer)  # type: ignore[return-value]


def _count_proven(rental_pk: int) -> int:
    rows = Relay.objects.wanted().filter(rental=rental_pk, status=Relay.Status.RUNNING)
    return rows.filter(proven_at__isnull=False).count()


def _all_proven(rental_pk: int) -> bool | None:
    """True once all run, or none is to run; None before."""
    if _count_proven(rental_pk) == len(SLOTS):
        return True
    runs = Rental.objects.with_rights(timezone.now()).filter(pk=rental_pk).exists()
    return None if runs else False
