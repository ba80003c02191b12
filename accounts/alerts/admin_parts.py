"""Alerts on the pages of what they are about."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from django.db.models import F
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.acts import Link
from accounts.alerts.models import Alert
from accounts.alerts.route_models import AlertDelivery
from accounts.tabs import link_to, show_table

_COLOURS = {Alert.State.ACTIVE: "red", Alert.State.CLEARED: "green", Alert.State.RESOLVED: "green"}
_DELIVERED = {
    AlertDelivery.State.SENT: "green",
    AlertDelivery.State.FAILED: "red",
    AlertDelivery.State.DROPPED: "grey",
}
_BADGE = '<span class="panel-state is-{}">{}</span>'


def severity_badge(alert: Alert) -> SafeString:
    """How bad an alert is, as a word in its colour."""
    return format_html(_BADGE, alert.severity, alert.get_severity_display())


def state_badge(alert: Alert) -> SafeString:
    """The state of an alert as a word in its colour."""
    colour = _COLOURS.get(Alert.State(alert.state), "grey")
    return format_html(_BADGE, colour, alert.get_state_display())


def delivery_badge(delivery: AlertDelivery) -> SafeString:
    """What became of a message about alerts, as a word in its colour."""
    colour = _DELIVERED.get(AlertDelivery.State(delivery.state), "blue")
    return format_html(_BADGE, colour, delivery.get_state_display())


def show_alerts(
    request: HttpRequest, *, server_pk: int | None = None, customer_pk: int | None = None, page: str = ""
) -> SafeString:
    """The alerts of a server, of a customer, or of what has a page at `page`, those that are open first."""
    wanted: dict[str, Any] = {"server": server_pk, "customer": customer_pk, "url__startswith": page}
    rows = (
        Alert.objects.visible_to(request.user)
        .filter(**{name: value for name, value in wanted.items() if value})
        .order_by(F("gone_at").desc(nulls_first=True), "-pk")
    )

    def cells(found: list[Alert]) -> Iterable[Iterable[Any]]:
        for alert in found:
            yield (
                alert.since,
                severity_badge(alert),
                link_to(alert, alert.title),
                alert.text,
                state_badge(alert),
                alert.gone_at,
                alert.note_text,
            )

    headings = [_("since"), _("severity"), _("alert"), _("details"), _("state"), _("well again"), _("note")]
    links = []
    if customer_pk:
        query = urlencode({"customer__id__exact": customer_pk, "state__exact": Alert.State.ACTIVE})
        links.append(
            Link(_("List of the active ones"), f"{reverse('admin:accounts_alert_changelist')}?{query}")
        )
    elif server_pk:
        url = f"{reverse('admin:accounts_alertrule_changelist')}?server__exact={server_pk}"
        links.append(Link(_("Rules"), url))
    return show_table(request, _("Alerts"), rows, headings, cells, links=links)
