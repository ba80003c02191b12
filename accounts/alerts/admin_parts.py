"""Alerts on the pages of what they are about."""

from collections.abc import Iterable
from typing import Any

from django.db.models import F
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.acts import Link
from accounts.alerts.models import Alert
from accounts.tabs import link_to, show_table


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
            link, level = link_to(alert, alert.title), alert.get_severity_display()
            yield (
                alert.since,
                level,
                link,
                alert.text,
                alert.get_state_display(),
                alert.gone_at,
                alert.note_text,
            )

    headings = [_("since"), _("severity"), _("alert"), _("details"), _("state"), _("well again"), _("note")]
    list_page = reverse("admin:accounts_alertrule_changelist")
    rules = [Link(_("Rules"), f"{list_page}?server__exact={server_pk}")] if server_pk else []
    return show_table(request, _("Alerts"), rows, headings, cells, links=rules)
