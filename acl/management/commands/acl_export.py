"""`manage.py acl_export EMAIL --format hujson|yaml|json`."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from acl.maps import services
from acl.maps.derpmap import MapFormat
from derpmgmt.lib.commands import PanelCommand
from serials.rentals.models import Rental


class Command(PanelCommand):
    """Writes a customer's map to standard output, under the same conditions as their own download."""

    help: Any = gettext_lazy("Write a customer's DERP map to standard output.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help=_("the customer's e-mail address"))
        parser.add_argument(
            "--format",
            dest="file_format",
            choices=[form.value for form in MapFormat],
            default=MapFormat.HUJSON.value,
            help=_("hujson: Tailscale's policy file; yaml: Headscale; json: the bare map (default: hujson)"),
        )

    def handle(self, *args: Any, email: str, file_format: str, **options: Any) -> None:
        rental = Rental.objects.filter(user__email=email.strip().lower()).first()
        if rental is None:
            raise CommandError(_("%(email)s has no rental.") % {"email": email})
        file = services.hand_out_map(
            rental=rental, file_format=MapFormat(file_format), by=None, browser="manage.py acl_export"
        )
        if self.as_json:
            config = file.config
            self.emit_one(
                {
                    "email": email,
                    "version": config.version,
                    "ends_at": config.ends_at,
                    "name": file.name,
                    "text": file.text,
                },
                {},
            )
        else:
            self.stdout.write(file.text, ending="")
