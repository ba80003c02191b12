"""What devices add to the pages that a customer and their rental have in the admin, whose rooms know no devices."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from django.db.models import Case, Count, Q, When
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from accounts.acts import buttons_of
from accounts.alerts.models import Alert
from accounts.requests import staff_of
from accounts.tabs import Said, Tab, link_to, show_around, show_table
from acl.devices import services
from acl.devices.admin_acts import DEVICE_ACTS
from acl.devices.models import Device, DevicePolicy
from acl.devices.strangers import STRANGERS
from containers.models import Relay
from serials.rentals.admin_parts import rental_of
from serials.rentals.models import Rental

COLOURS = {Device.Status.APPROVED: "green", Device.Status.PENDING: "orange", Device.Status.REVOKED: "grey"}


def state_badge(device: Device) -> SafeString:
    """A device's state, in its colour."""
    colour = COLOURS[Device.Status(device.status)]
    return format_html('<span class="panel-state is-{}">{}</span>', colour, device.get_status_display())


def says(row: Any) -> Iterator[Said]:
    """Answer to "row_says": how many places of a customer's are taken."""
    if (rental := rental_of(row)) and not rental.closed_at:
        now = timezone.now()
        values = {"count": services.placed(rental, now).count(), "limit": services.device_limit(rental, now)}
        yield Said(_("%(count)d of %(limit)d devices") % values)


def tabs(row: Any) -> Iterator[Tab]:
    """Answer to "row_tabs": a customer's devices."""
    if rental := rental_of(row):
        yield Tab("devices", _("Devices"), partial(_show, rental))


def _show(rental: Rental, request: HttpRequest) -> SafeString:
    rows = (
        Device.objects.visible_to(request.user)
        .filter(rental=rental)
        .select_related("last_relay__server", "rental__user")
    )
    rows = rows.defer(*(f"last_relay__{name}" for name in Relay.SECRETS))
    # Those that wait for somebody's word stand first, those that are out last.
    waiting_first = Case(
        When(status=Device.Status.PENDING, then=0), When(status=Device.Status.APPROVED, then=1), default=2
    )

    def cells(found: list[Device]) -> Iterable[Iterable[Any]]:
        for device in found:
            yield (
                link_to(device),
                state_badge(device),
                format_html("<code>{}…</code>", device.node_key[:16]),
                device.get_source_display(),
                link_to(device.last_relay) if device.last_relay else "",
                device.last_seen_at,
                " · ".join(filter(None, [device.last_ip, device.last_place])),
                _ways(device, request),
            )

    headings = [
        _("device"), _("state"), _("node key"), _("how it came in"), _("relay"), _("last seen"), _("IP address"), _("acts"),
    ]  # fmt: skip
    return render_to_string("admin/acl/_device_rules.html", _rules(rental)) + show_table(
        request,
        pgettext("device", "Devices"),
        rows.order_by(waiting_first, "-last_seen_at", "pk"),
        headings,
        cells,
    )


def _ways(device: Device, request: HttpRequest) -> SafeString:
    """Its buttons that need no look at other rows, as ways to their pages."""
    acts = [act for act in DEVICE_ACTS if act.verb != "give-place"]
    found = buttons_of(acts, device, staff_of(request))
    return format_html_join(" · ", '<a href="{}">{}</a>', ((button.url, button.label) for button in found))


def parts(row: Any) -> Iterator[SafeString]:
    """Answer to "row_parts": how many devices a rental has and may have, and what its customer decided about who comes in; of an alert of
    strangers when they knocked."""
    if isinstance(row, Rental):
        yield render_to_string("admin/acl/_device_rules.html", _rules(row))
    elif isinstance(row, Alert) and row.rule == STRANGERS and row.customer_id:
        url = reverse("admin:acl_admission_strangers", args=[row.customer_id])
        yield show_around([(_("Strangers at the relays"), url)], row.since)


def _rules(rental: Rental) -> dict[str, Any]:
    now = timezone.now()
    counts = Device.objects.filter(rental=rental).aggregate(
        approved=Count("pk", filter=Q(status=Device.Status.APPROVED)),
        waiting=Count("pk", filter=Device.waiting(now)),
        on_trial=Count("pk", filter=Device.on_trial(now)),
    )
    policy = DevicePolicy.objects.filter(rental=rental).first()
    until = services.window_until(rental, policy) if policy else services.window_until(rental)
    return {
        **counts,
        "rental": rental,
        "policy": policy,
        "is_open": services.lets_all_in(rental, now),
        "is_full": not services.places_left(rental, now),
        "limit": services.device_limit(rental, now),
        "until": until if until > now else None,
        "verify_host": urlsplit(policy.verify_url).hostname if policy else None,
        "problem": _(policy.verify_problem) if policy and policy.verify_problem else "",
    }
