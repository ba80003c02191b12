"""Lists of map events."""

from typing import Any

import django_tables2 as tables
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from acl.models import AclEvent

_COLOURS = {
    AclEvent.Kind.MADE: "green",
    AclEvent.Kind.DOWNLOADED: "blue",
    AclEvent.Kind.REFUSED: "red",
    AclEvent.Kind.WITHDRAWN: "yellow",
}


def _labelled(label: Any) -> dict[str, Any]:
    """Attributes of a column's cells: on a phone, each cell is a line that says what it is."""
    return {"td": {"data-label": label}}


class MapHistoryTable(tables.Table):
    """What happened to a customer's map, for himself; `request.user` is the reader."""

    at = tables.DateTimeColumn(format="Y-m-d H:i:s", attrs=_labelled(_("time")))
    kind = tables.Column(attrs=_labelled(_("kind")))
    version = tables.Column(attrs=_labelled(_("version")))
    file_format = tables.Column(attrs=_labelled(_("format")))
    by = tables.Column(accessor="by_id", empty_values=(), orderable=False, attrs=_labelled(_("by")))
    reason_text = tables.Column(verbose_name=_("reason"), orderable=False, attrs=_labelled(_("reason")))
    ip = tables.Column(attrs=_labelled(_("IP address")))
    place = tables.Column(attrs=_labelled(_("place")))
    browser = tables.Column(orderable=False, attrs=_labelled(_("browser")))

    class Meta:
        model = AclEvent
        fields = ("at", "kind", "version", "file_format", "by", "reason_text", "ip", "place", "browser")
        attrs = {"class": "table table-vcenter table-mobile-md card-table"}
        order_by = "-at"
        empty_text = _("Nothing has happened yet.")

    def render_kind(self, record: AclEvent) -> SafeString:
        """A colour and a word."""
        kind = AclEvent.Kind(record.kind)
        return format_html('<span class="badge bg-{0}-lt">{1}</span>', _COLOURS[kind], kind.label)

    def render_version(self, value: int) -> str:
        return f"v{value}"

    def render_by(self, record: AclEvent) -> str:
        """An operator's name is no business of the customer's."""
        if record.by_id is None:
            return gettext("the system")
        return gettext("you") if record.by_id == self.request.user.pk else gettext("an admin")
