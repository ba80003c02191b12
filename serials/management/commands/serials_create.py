from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from derpmgmt.lib.arguments import parse_day
from derpmgmt.lib.commands import PanelCommand
from fleet.models import Server
from serials.numbers import codes, services


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
