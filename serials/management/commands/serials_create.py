from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from derpmgmt.lib.arguments import MOST_GB, MOST_MBIT, amount, number, parse_day
from derpmgmt.lib.commands import PanelCommand
from fleet.models import Server
from serials.numbers import codes, services
from serials.rentals.limits import AtQuota
from serials.rentals.wording import BYTES_PER_GB, BYTES_PER_MBIT


class Command(PanelCommand):
    """Make a batch of serial numbers and print the codes."""

    help: Any = gettext_lazy("Make serial numbers and print them, one a line.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, required=True, help=_("days that each one gives"))
        parser.add_argument("--count", type=int, default=1, help=_("how many (1)"))
        parser.add_argument("--name", help=_("name of the batch"))
        parser.add_argument(
            "--redeem-by", metavar="DAY", help=_("last day for redeeming, for example 2026-12-31")
        )
        size = amount(BYTES_PER_GB, MOST_GB, least="1")
        parser.add_argument(
            "--traffic", metavar="GB", type=size, help=_("traffic a month, both ways together")
        )
        parser.add_argument("--up", metavar="GB", type=size, help=_("of it from devices"))
        parser.add_argument("--down", metavar="GB", type=size, help=_("of it to devices"))
        parser.add_argument(
            "--rate",
            metavar="MBIT",
            type=amount(BYTES_PER_MBIT, MOST_MBIT, least="1"),
            help=_("Mbit/s for each device"),
        )
        parser.add_argument(
            "--devices", metavar="N", type=number(1, 1000), default=20, help=_("devices that may be approved")
        )
        parser.add_argument(
            "--at-quota",
            choices=AtQuota.values,
            default=AtQuota.NOTHING.value,
            help=_("what happens at the allowance"),
        )
        parser.add_argument(
            "--grace-days", type=int, help=_("days for which everything runs on after the end")
        )
        parser.add_argument(
            "--unpaid", action="store_true", help=_("cannot be redeemed until marked as paid")
        )
        parser.add_argument(
            "--server",
            nargs="+",
            default=[],
            metavar="NAME",
            help=_("bind them to these servers, at least three"),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        servers = list(Server.objects.filter(name__in=options["server"]))
        if missing := set(options["server"]) - {server.name for server in servers}:
            raise CommandError(_("There is no server named %(name)s.") % {"name": ", ".join(sorted(missing))})
        days, count = options["days"], options["count"]
        redeem_by = options["redeem_by"] and parse_day(options["redeem_by"])
        gives = ngettext("%(count)d × %(days)d day", "%(count)d × %(days)d days", days)
        try:
            batch = services.create_batch(
                name=options["name"] or gives % {"count": count, "days": days},
                days=days,
                count=count,
                by=None,
                is_paid=not options["unpaid"],
                redeem_by=redeem_by,
                servers=servers,
                grace_days=options["grace_days"],
                quota_bytes=options["traffic"],
                upload_quota_bytes=options["up"],
                download_quota_bytes=options["down"],
                rate_bytes_per_second=options["rate"],
                device_limit=options["devices"],
                at_quota=options["at_quota"],
            )
        except ValidationError as error:
            raise CommandError(
                "; ".join(f"{field}: {' '.join(texts)}" for field, texts in error.message_dict.items())
            ) from error
        rows = [
            {
                "code": codes.group(serial.code),
                "days": days,
                "redeem_by": batch.redeem_by,
                "is_paid": batch.is_paid,
                "batch": batch.name,
                "batch_id": batch.pk,
            }
            for serial in services.reveal_batch(batch=batch, by=None)
        ]
        self.emit(
            rows,
            {
                "code": _("Serial number"),
                "days": _("Days"),
                "redeem_by": _("Redeem by"),
                "is_paid": _("Paid"),
            },
        )
