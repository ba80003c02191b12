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


def show_alerts(server_pk: int, request: HttpRequest) -> SafeString:
    """The alerts of a server, those that are open first."""
    rows = (
        Alert.objects.visible_to(request.user)
        .filter(server=server_pk)
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
    rules = Link(_("Rules"), reverse("admin:accounts_alertrule_changelist") + f"?server__exact={server_pk}")
    return show_table(request, _("Alerts"), rows, headings, cells, links=[rules])
