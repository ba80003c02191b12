"""The list of who asked to be let in."""

from collections.abc import Mapping
from typing import Any

import django_tables2 as tables
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from acl.devices.models import Admission, Device
from derpmgmt.lib.cells import EMPTY, labelled


class AdmissionTable(tables.Table):
    """Who asked to be let in. `relays` are the rental's by primary key; `devices`, by node key, come before it is drawn."""

    at = tables.DateTimeColumn(format="Y-m-d H:i:s", attrs=labelled(_("time")))
    # Without a key: the row counts a minute's questions.
    node_key = tables.Column(verbose_name=_("device"), empty_values=(), attrs=labelled(_("device")))
    is_allowed = tables.Column(verbose_name=_("answer"), attrs=labelled(_("answer")))
    reason = tables.Column(attrs=labelled(_("reason")))
    ip = tables.Column(empty_values=(), attrs=labelled(_("IP address")))
    relay = tables.Column(accessor="relay_id", attrs=labelled(_("relay")))
    map_version = tables.Column(attrs=labelled(_("map version")))
    count = tables.Column(attrs=labelled(_("times")))

    class Meta:
        model = Admission
        fields = ("at", "node_key", "is_allowed", "reason", "ip", "relay", "map_version", "count")
        attrs = {"class": "table table-vcenter panel-cards"}
        default = EMPTY
        orderable = False
        order_by = ("-at", "-pk")
        empty_text = _("No device has asked to connect yet.")

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
        return format_html('<span class="panel-state is-{}">{}</span>', colour, word)

    def render_ip(self, record: Admission) -> str:
        """The address and, where known, its place."""
        return " · ".join(filter(None, [record.ip, record.place])) or EMPTY

    def render_relay(self, value: int) -> str:
        """The relay's name as the customer knows it."""
        return self.relays.get(value) or EMPTY

    def render_map_version(self, value: int) -> str:
        """As the map's page writes it."""
        return f"v{value}"

    def render_count(self, value: int) -> str:
        """How often, where that is more than once."""
        return f"{value} ×" if value > 1 else ""
