"""The admin's buttons at rentals."""

from collections.abc import Iterator

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.acts import Act, Doing
from derpmgmt.lib import queue
from serials.rentals import services
from serials.rentals.forms import CustomerLimitsForm, PauseForm, RenewForm, TrafficForm, end_of_day
from serials.rentals.models import Redemption, Rental
from serials.rentals.wording import BYTES_PER_GB, moment, moves_on, traffic


def _explain_renewal(rental: Rental) -> Iterator[str]:
    if rental.ends_at:
        yield _("The rental of %(customer)s ends on %(end)s.") % {
            "customer": rental,
            "end": moment(rental.ends_at),
        }
    yield _("It is to run until the end of the chosen day, with the terms it had last. The customer is told.")
    if rental.paused_at:
        yield moves_on()


def _renew(rental: Rental, doing: Doing) -> str:
    redemption = services.renew_rental(
        rental=rental, until=end_of_day(doing.data["until"]), by=doing.by, note=doing.data["note"]
    )
    done = renewed_sentence(redemption)
    return f"{done} {moves_on()}" if redemption.rental.paused_at else done


def renewed_sentence(redemption: Redemption) -> str:
    """That it is renewed, and until when."""
    values = {"customer": redemption.rental, "end": moment(redemption.new_ends_at)}
    return _("The rental of %(customer)s is renewed until %(end)s.") % values


def _explain_pause(rental: Rental) -> Iterator[str]:
    yield _("The time of %(customer)s stands still until the rental is resumed: none is lost.") % {
        "customer": rental
    }
    yield from stops(rental)


def stops(rental: Rental) -> list[str]:
    """In sentences, what a pause stops; to be asked before it begins."""
    return queue.ask("stops_with", rental.user)


def paused_sentence(rental: Rental, stopped: list[str]) -> str:
    """That it is paused, and what stopped with it."""
    return " ".join([_("The rental of %(customer)s is paused.") % {"customer": rental}, *stopped])


def _pause(rental: Rental, doing: Doing) -> str | None:
    stopped = stops(rental)
    if not services.pause_rental(rental=rental, by=doing.by, reason=doing.data["reason"]):
        return None
    return paused_sentence(rental, stopped)


def resumed_sentence(rental: Rental) -> str:
    """That it is resumed."""
    return _("The rental of %(customer)s is resumed; the relays are coming back.") % {"customer": rental}


def _resume(rental: Rental, doing: Doing) -> str | None:
    if services.resume_rental(rental=rental, by=doing.by) is None:
        return None
    return resumed_sentence(rental)


def _set_limits(rental: Rental, doing: Doing) -> str | None:
    caps, note = doing.data["caps"], doing.data["note"]
    if not services.set_limits(rental=rental, caps=caps, note=note, by=doing.by):
        return None
    return _("The limits of %(customer)s are changed; they count within seconds.") % {"customer": rental}


def _add_traffic(rental: Rental, doing: Doing) -> str | None:
    size = int(doing.data["size_gb"] * BYTES_PER_GB)
    grant = services.add_traffic(
        rental=rental, size_bytes=size, note=doing.data["note"], after=doing.data["after"], by=doing.by
    )
    if grant is None:
        return None
    return _("%(customer)s has %(size)s more traffic this month.") % {
        "customer": rental,
        "size": traffic(size),
    }


RENTAL_ACTS = (
    Act(
        verb="renew",
        label=gettext_lazy("Renew"),
        fits=lambda rental: not rental.closed_at,
        explain=_explain_renewal,
        form=RenewForm,
        run=_renew,
    ),
    Act(
        verb="limits",
        label=gettext_lazy("Limits"),
        button=gettext_lazy("Save"),
        fits=lambda rental: not rental.closed_at,
        otherwise=lambda rental: "" if rental.closed_at else _("These limits are so already."),
        explain=lambda rental: [
            _("What is filled in counts for %(customer)s instead of what was sold, for all relays together.")
            % {"customer": rental},
            *queue.ask("limits_now", rental),
        ],
        form=CustomerLimitsForm,
        run=_set_limits,
    ),
    Act(
        verb="traffic",
        label=gettext_lazy("Add traffic"),
        fits=lambda rental: not rental.closed_at,
        otherwise=lambda rental: (
            "" if rental.closed_at else _("Traffic was added meanwhile; have a look before you add more.")
        ),
        explain=lambda rental: [
            _(
                "%(customer)s gets it on top of the allowance of the month that runs; it does not go over into the next one."
            )
            % {"customer": rental}
        ],
        form=TrafficForm,
        run=_add_traffic,
    ),
    Act(
        verb="pause",
        is_danger=True,
        label=gettext_lazy("Pause"),
        fits=lambda rental: rental.status == Rental.Status.ACTIVE and not rental.paused_at,
        otherwise=lambda rental: _("This rental is paused already.") if rental.paused_at else "",
        explain=_explain_pause,
        form=PauseForm,
        run=_pause,
    ),
    Act(
        verb="resume",
        label=gettext_lazy("Resume"),
        fits=lambda rental: bool(rental.paused_at) and not rental.closed_at,
        otherwise=lambda rental: "" if rental.closed_at else _("This rental is not paused."),
        explain=lambda rental: [
            _("The time of %(customer)s goes on where it stood still, and the relays come back.")
            % {"customer": rental}
        ],
        run=_resume,
    ),
)
