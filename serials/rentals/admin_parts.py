"""What rentals add to the page that a customer has in the admin, whose room knows no rentals."""

from collections.abc import Iterable, Iterator
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.acts import Button, Link, buttons_of
from accounts.models import User
from accounts.tabs import Said, show_facts, show_table
from serials.rentals import services
from serials.rentals.admin_acts import RENTAL_ACTS
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.wording import moment, moves_on, rate, sold_traffic, time_left

_COLOURS = {
    Rental.Status.ACTIVE: "green",
    Rental.Status.EXPIRED: "grey",
    Rental.Status.PAUSED: "orange",
    Rental.Status.CLOSED: "grey",
}


def rental_of(row: Any) -> Rental | None:
    """The rental of a customer's page; read once however many ask."""
    return getattr(row, "rental", None) if isinstance(row, User) else None


def says(row: Any) -> Iterator[Said]:
    """Answer to "row_says": what a customer's rental is, and how much is left of it."""
    rental = rental_of(row)
    if rental is None:
        if isinstance(row, User) and not row.is_staff:
            yield Said(_("no rental"))
        return
    if rental.status != Rental.Status.ACTIVE:
        label = _("rental %(state)s") % {"state": rental.get_status_display()}
        yield Said(label, _COLOURS[Rental.Status(rental.status)])
    if rental.has_rights(now := timezone.now()) and not services.is_paid(rental, now):
        yield Said(_("not paid for"), "red")
    if not rental.closed_at and rental.ends_at:
        yield Said(time_left(rental.ends_at, rental.paused_at))


def buttons(row: Any, by: User) -> Iterator[Button]:
    """Answer to "row_buttons": what is done with the rental."""
    if rental := rental_of(row):
        yield from buttons_of(RENTAL_ACTS, rental, by)


def facts(rental: Rental) -> SafeString:
    """What is known of a rental, with what its time gives now."""
    pause, now = services.current_pause(rental), timezone.now()
    paused = " · ".join(filter(None, [moment(pause.at), pause.who, pause.reason])) if pause else None
    shown = [
        (_("state"), rental.get_status_display()),
        (_("time left"), None if rental.closed_at else time_left(rental.ends_at, rental.paused_at)),
        (_("ends on"), rental.ends_at),
        (_("relays run until"), rental.runs_until),
        (_("paused"), paused),
        (_("to be known"), moves_on() if rental.paused_at else None),
        (_("waiting for the first relay since"), rental.waiting_since),
        (
            _("account is closed on"),
            rental.closes_at if rental.runs_until and rental.runs_until < now else None,
        ),
        (_("closed"), rental.closed_at),
        (_("first activation"), rental.created_at),
    ]
    return show_facts(_("Rental"), shown)


def spans(request: HttpRequest, rental: Rental) -> SafeString:
    """A rental's schedule, what runs now first."""
    now = timezone.now()
    rows = RentalSpan.objects.visible_to(request.user).filter(rental=rental).order_by("-starts_at")

    def cells(found: list[RentalSpan]) -> Iterable[Iterable[Any]]:
        for span in found:
            is_now = span.starts_at <= now < span.ends_at
            is_over = span.ends_at <= now
            yield (
                span.starts_at,
                span.ends_at,
                _("runs now") if is_now else _("over") if is_over else _("to come"),
                span.device_limit,
                sold_traffic(span),
                _("none") if span.rate_bytes_per_second is None else rate(span.rate_bytes_per_second),
                span.get_at_quota_display(),
            )

    headings = [
        _("starts"), _("ends"), _("state"), _("devices"), _("traffic a month"), _("rate limit"), _("at the allowance"),
    ]  # fmt: skip
    links = [Link(_("All that was sold, span by span"), page_of(rental))]
    return show_table(request, _("Spans"), rows, headings, cells, page="spans", links=links)


def page_of(rental: Rental) -> str:
    """The address of a rental's own page in the admin."""
    return reverse("admin:serials_rental_change", args=[rental.pk])
