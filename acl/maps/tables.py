"""The list of what happened to a map."""

import django_tables2 as tables
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from acl.maps.models import AclEvent
from derpmgmt.lib.cells import EMPTY, labelled
from derpmgmt.lib.user_agents import name_program

_COLOURS = {
    AclEvent.Kind.MADE: "green",
    AclEvent.Kind.DOWNLOADED: "blue",
    AclEvent.Kind.FETCHED: "blue",
    AclEvent.Kind.REFUSED: "red",
    AclEvent.Kind.WITHDRAWN: "orange",
}


class MapHistoryTable(tables.Table):
    """What happened to a customer's map, for themselves; `request.user` is the reader."""

    at = tables.DateTimeColumn(format="Y-m-d H:i:s", attrs=labelled(_("time")))
    kind = tables.Column(attrs=labelled(_("kind")))
    version = tables.Column(attrs=labelled(_("version")))
    count = tables.Column(orderable=False, attrs=labelled(_("times")))
    by = tables.Column(accessor="by_id", empty_values=(), orderable=False, attrs=labelled(_("by")))
    reason_text = tables.Column(verbose_name=_("reason"), orderable=False, attrs=labelled(_("reason")))
    ip = tables.Column(attrs=labelled(_("IP address")))
    browser = tables.Column(orderable=False, attrs=labelled(_("browser")))

    class Meta:
        model = AclEvent
        fields = ("at", "kind", "version", "count", "by", "reason_text", "ip", "browser")
        attrs = {"class": "table table-vcenter panel-cards"}
        default = EMPTY
        order_by = "-at"
        empty_text = _("Nothing has happened yet.")

    def render_kind(self, record: AclEvent) -> SafeString:
        """A colour and a word."""
        kind = AclEvent.Kind(record.kind)
        return format_html('<span class="panel-state is-{0}">{1}</span>', _COLOURS[kind], kind.label)

    def render_count(self, record: AclEvent) -> str:
        """How often, where that is more than once, and until when."""
        if record.count == 1:
            return ""
        last = f"{timezone.localtime(record.last_at):%H:%M:%S}" if record.last_at else ""
        return " · ".join(filter(None, [f"{record.count} ×", last]))

    def render_version(self, record: AclEvent) -> str:
        """The version and, where it left the panel, in which form."""
        return " · ".join(filter(None, [f"v{record.version}" if record.version else "", record.file_format]))

    def render_by(self, record: AclEvent) -> str:
        """An operator's name is no business of the customer's."""
        if record.kind == AclEvent.Kind.FETCHED:
            return gettext("live URL")
        if record.by_id is None:
            return gettext("the system")
        return gettext("you") if record.by_id == self.request.user.pk else gettext("an admin")

    def render_browser(self, value: str) -> SafeString:
        """In words; all that it said of itself when pointed at."""
        return format_html('<span title="{}">{}</span>', value, name_program(value))

    def render_ip(self, record: AclEvent) -> str:
        """The address and, where known, its place."""
        return " · ".join(filter(None, [record.ip, record.place]))
