"""Lists of map events, and of who asked to be let in."""

from collections.abc import Mapping
from typing import Any

import django_tables2 as tables
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from acl.models import AclEvent, Admission, Device

_COLOURS = {
    AclEvent.Kind.MADE: "green",
    AclEvent.Kind.DOWNLOADED: "blue",
    AclEvent.Kind.FETCHED: "azure",
    AclEvent.Kind.REFUSED: "red",
    AclEvent.Kind.WITHDRAWN: "yellow",
}
_EMPTY = "–"


def _labelled(label: Any) -> dict[str, Any]:
    """Attributes of a column's cells: on a phone a row is a card, each cell names itself, and empty ones are left out."""
    return {
        "td": {
            "data-label": label,
            "class": lambda value: "d-none d-sm-table-cell" if value in {None, "", _EMPTY} else "",
        }
    }


class MapHistoryTable(tables.Table):
    """What happened to a customer's map, for himself; `request.user` is the reader."""

    at = tables.DateTimeColumn(format="Y-m-d H:i:s", attrs=_labelled(_("time")))
    kind = tables.Column(attrs=_labelled(_("kind")))
    version = tables.Column(attrs=_labelled(_("version")))
    count = tables.Column(orderable=False, attrs=_labelled(_("times")))
    by = tables.Column(accessor="by_id", empty_values=(), orderable=False, attrs=_labelled(_("by")))
    reason_text = tables.Column(verbose_name=_("reason"), orderable=False, attrs=_labelled(_("reason")))
    ip = tables.Column(attrs=_labelled(_("IP address")))
    browser = tables.Column(orderable=False, attrs=_labelled(_("browser")))

    class Meta:
        model = AclEvent
        fields = ("at", "kind", "version", "count", "by", "reason_text", "ip", "browser")
        attrs = {"class": "table table-vcenter panel-cards"}
        default = _EMPTY
        order_by = "-at"
        empty_text = _("Nothing has happened yet.")

    def render_kind(self, record: AclEvent) -> SafeString:
        """A colour and a word."""
        kind = AclEvent.Kind(record.kind)
        return format_html('<span class="badge bg-{0}-lt">{1}</span>', _COLOURS[kind], kind.label)

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

    def render_ip(self, record: AclEvent) -> str:
        """The address and, where known, its place."""
        return " · ".join(filter(None, [record.ip, record.place]))


class AdmissionTable(tables.Table):
    """Who asked to be let in. `relays` are the rental's by primary key; `devices`, by node key, come before it is drawn."""

    at = tables.DateTimeColumn(format="Y-m-d H:i:s", attrs=_labelled(_("time")))
    # Without a key: the row counts a minute's questions.
    node_key = tables.Column(verbose_name=_("device"), empty_values=(), attrs=_labelled(_("device")))
    is_allowed = tables.Column(verbose_name=_("answer"), attrs=_labelled(_("answer")))
    reason = tables.Column(attrs=_labelled(_("reason")))
    ip = tables.Column(empty_values=(), attrs=_labelled(_("IP address")))
    relay = tables.Column(accessor="relay_id", attrs=_labelled(_("relay")))
    map_version = tables.Column(attrs=_labelled(_("map version")))
    count = tables.Column(attrs=_labelled(_("times")))

    class Meta:
        model = Admission
        fields = ("at", "node_key", "is_allowed", "reason", "ip", "relay", "map_version", "count")
        attrs = {"class": "table table-vcenter panel-cards"}
        default = _EMPTY
        orderable = False
        order_by = ("-at", "-pk")
        empty_text = _("Nobody has asked to be let in.")

    def __init__(self, *args: Any, relays: Mapping[int, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.relays = relays
        self.devices: dict[str, Device] = {}

    def render_node_key(self, value: str) -> SafeString:
        """The device's name, or the begin of its key; behind it all that it asked."""
        if not value:
            return format_html("<span>{}</span>", gettext("several, counted together"))
        text = str(self.devices.get(value) or Device(node_key=value))
        where = reverse("acl:admission-list")
        return format_html('<a href="{}?key={}" title="nodekey:{}">{}</a>', where, value, value, text)

    def render_is_allowed(self, value: bool) -> SafeString:
        """A colour and a word."""
        colour, word = ("green", _("allowed")) if value else ("red", _("refused"))
        return format_html('<span class="badge bg-{}-lt">{}</span>', colour, word)

    def render_ip(self, record: Admission) -> str:
        """The address and, where known, its place."""
        return " · ".join(filter(None, [record.ip, record.place])) or _EMPTY

    def render_relay(self, value: int) -> str:
        """The relay's name as the customer knows it."""
        return self.relays.get(value) or _EMPTY

    def render_map_version(self, value: int) -> str:
        """As the map's page writes it."""
        return f"v{value}"

    def render_count(self, value: int) -> str:
        """How often, where that is more than once."""
        return f"{value} ×" if value > 1 else ""
