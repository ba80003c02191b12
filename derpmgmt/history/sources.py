"""The kinds of rows that a customer's history is made of: a `Source` knows one of them."""

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from accounts.models import Notice, OperationLog, User
from acl.maps.models import AclEvent
from fleet.models import Region
from serials.numbers.models import redeemed_serial
from serials.rentals.models import Redemption

# Seconds that are given back for a relay's being made; fewer move the end by nothing that anybody sees.
_WORTH_TELLING = 60

Cell = str | int | datetime | None


def written(value: Cell) -> str:
    """The value as people read it; "" when there is none."""
    if value is None:
        return ""
    return f"{timezone.localtime(value):%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


class Source(ABC):
    """One kind of rows in the history. `moments` are the columns whose times are entries of the timeline."""

    kind: ClassVar[str]
    label: ClassVar[Any]
    icon: ClassVar[str]
    moments: ClassVar[tuple[str, ...]] = ("at",)
    headings: ClassVar[tuple[Any, ...]]

    @abstractmethod
    def rows(self, reader: User, customer: User) -> QuerySet[Any]:
        """The customer's rows that `reader` may see."""

    @abstractmethod
    def describe(self, row: Any, moment: str) -> tuple[str, str]:
        """What happened at that moment, and the details, in the active language."""

    @abstractmethod
    def cells(self, row: Any) -> tuple[Cell, ...]:
        """The row in the table of its kind, under `headings`."""


class LogSource(Source):
    """What stands in the activity log: these `actions`."""

    actions: ClassVar[tuple[str, ...]]

    def rows(self, reader: User, customer: User) -> QuerySet[OperationLog]:
        return OperationLog.objects.visible_to(reader).filter(subject=customer, action__in=self.actions)

    def describe(self, row: OperationLog, moment: str) -> tuple[str, str]:
        return row.action_text, self.details(row)

    def cells(self, row: OperationLog) -> tuple[Cell, ...]:
        return row.at, row.action_text, self.details(row)

    @abstractmethod
    def details(self, row: OperationLog) -> str:
        """What is to be said beside what happened; may be empty."""


class RentalSource(LogSource):
    """What the rental went through."""

    kind, label = "rental", gettext_lazy("Rental")
    icon = "clock"
    headings = (gettext_lazy("time"), gettext_lazy("what happened"), gettext_lazy("details"))
    actions = (
        "rental.expired",
        "rental.paused",
        "rental.resumed",
        "rental.closed",
        "user.closing",
    )

    def details(self, row: OperationLog) -> str:
        if row.action == "rental.expired":
            return _end(row.detail)
        # Of the reasons only this one is written for the customer to read.
        return str(row.detail.get("reason", "")) if row.action == "rental.paused" else ""


def _end(detail: dict[str, Any]) -> str:
    """When the rental really ended: what was away for a while recorded it later."""
    ended, until = (parse_datetime(detail.get(name) or "") for name in ("ends_at", "runs_until"))
    if ended is None:
        return ""
    if until is None or until <= ended:
        return _("ended on %(end)s") % {"end": written(ended)}
    return _("ended on %(end)s; the relays ran until %(until)s") % {
        "end": written(ended),
        "until": written(until),
    }


class DeviceSource(LogSource):
    """What became of the devices, and of who may come in."""

    kind, label = "device", gettext_lazy("Device")
    icon = "devices"
    headings = (gettext_lazy("time"), gettext_lazy("what happened"), gettext_lazy("device"))
    actions = (
        "device.added",
        "device.approved",
        "device.place_given",
        "device.enrolled",
        "device.revoked",
        "device.renamed",
        "devices.window_opened",
        "devices.window_closed",
        "devices.checking_off",
        "devices.checking_on",
        "devices.verify_url_set",
        "devices.verify_url_removed",
    )

    def details(self, row: OperationLog) -> str:
        # The others are about the rental, and name its owner.
        return row.target if row.action.startswith("device.") else ""


class RedemptionSource(Source):
    """What moved the end."""

    kind, label = "redemption", pgettext_lazy("history", "Time")
    icon = "ticket"
    headings = (
        gettext_lazy("time"),
        gettext_lazy("kind"),
        gettext_lazy("serial number"),
        gettext_lazy("old end"),
        gettext_lazy("new end"),
    )

    def rows(self, reader: User, customer: User) -> QuerySet[Redemption]:
        rows = Redemption.objects.visible_to(reader).filter(rental__user=customer).select_related("serial")
        return rows.exclude(kind=Redemption.Kind.WAITING, granted_seconds__lt=_WORTH_TELLING)

    def describe(self, row: Redemption, moment: str) -> tuple[str, str]:
        title = " ".join(filter(None, [row.get_kind_display(), redeemed_serial(row)]))
        ends = dict.fromkeys(written(end) for end in (row.old_ends_at, row.new_ends_at) if end)
        return title, " → ".join(ends)

    def cells(self, row: Redemption) -> tuple[Cell, ...]:
        serial = redeemed_serial(row)
        return row.at, row.get_kind_display(), serial, row.old_ends_at, row.new_ends_at


class MapSource(Source):
    """Versions of the map, and who took them."""

    kind, label = "map", pgettext_lazy("history", "derpMap")
    icon = "route"
    headings = (
        gettext_lazy("time"),
        gettext_lazy("kind"),
        gettext_lazy("version"),
        gettext_lazy("format"),
        gettext_lazy("times"),
        gettext_lazy("reason"),
        gettext_lazy("IP address"),
    )

    TITLES: ClassVar[dict[str, Any]] = {
        AclEvent.Kind.MADE: gettext_lazy("New version of the map"),
        AclEvent.Kind.WITHDRAWN: gettext_lazy("Map withdrawn"),
        AclEvent.Kind.DOWNLOADED: gettext_lazy("Map downloaded"),
        AclEvent.Kind.REFUSED: gettext_lazy("Map refused"),
        AclEvent.Kind.FETCHED: gettext_lazy("Map fetched by the live URL"),
    }

    def rows(self, reader: User, customer: User) -> QuerySet[AclEvent]:
        return AclEvent.objects.visible_to(reader).filter(rental__user=customer).select_related("rental")

    def describe(self, row: AclEvent, moment: str) -> tuple[str, str]:
        version = f"v{row.version}" if row.version else ""
        times = f"{row.count} ×" if row.count > 1 else ""
        details = [version, row.file_format, times, row.reason_text, self._ip(row)]
        return str(self.TITLES[row.kind]), " · ".join(filter(None, details))

    def cells(self, row: AclEvent) -> tuple[Cell, ...]:
        title = str(self.TITLES[row.kind])
        return row.at, title, row.version, row.file_format, row.count, row.reason_text, self._ip(row)

    @staticmethod
    def _ip(row: AclEvent) -> str:
        # Where an operator sat is no business of the customer's.
        return row.ip or "" if row.by_id in {None, row.rental.user_id} else ""


class RelaySource(LogSource):
    """What became of the relays that they have or had."""

    kind, label = "relay", gettext_lazy("Relay")
    icon = "server"
    headings = (
        gettext_lazy("time"),
        gettext_lazy("what happened"),
        gettext_lazy("region"),
        gettext_lazy("IP address"),
        gettext_lazy("DERP port (TCP)"),
        gettext_lazy("STUN port (UDP)"),
    )
    actions = ("relay.ready", "relay.removed")

    def details(self, row: OperationLog) -> str:
        return f"{self._region(row)} · {row.detail['address']}:{row.detail['derp_port']}"

    def cells(self, row: OperationLog) -> tuple[Cell, ...]:
        detail = row.detail
        ports = detail["derp_port"], detail["stun_port"]
        return row.at, row.action_text, self._region(row), detail["address"], *ports

    @staticmethod
    def _region(row: OperationLog) -> str:
        return Region(name_zh=row.detail["region_zh"], name_en=row.detail["region_en"]).name


class NoticeSource(Source):
    """What they were told."""

    kind, label = "notice", gettext_lazy("Notice")
    icon = "bell"
    moments = ("created_at",)
    headings = (
        gettext_lazy("time"),
        gettext_lazy("notice"),
        gettext_lazy("channel"),
        gettext_lazy("state"),
    )

    def rows(self, reader: User, customer: User) -> QuerySet[Notice]:
        return Notice.objects.visible_to(reader).filter(user=customer)

    def describe(self, row: Notice, moment: str) -> tuple[str, str]:
        return row.kind_text, f"{row.get_channel_display()} · {row.get_state_display()}"

    def cells(self, row: Notice) -> tuple[Cell, ...]:
        return row.created_at, row.kind_text, row.get_channel_display(), row.get_state_display()


SOURCES: dict[str, Source] = {
    source.kind: source
    for source in (
        RentalSource(),
        RedemptionSource(),
        MapSource(),
        DeviceSource(),
        RelaySource(),
        NoticeSource(),
    )
}
