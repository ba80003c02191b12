"""`manage.py acl_renew EMAIL`."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from acl.maps import services
from derpmgmt.lib.commands import PanelCommand
from serials.rentals.models import Rental


class Command(PanelCommand):
    """Makes a new version of a customer's map, valid from now."""

    help: Any = gettext_lazy("Make a new version of a customer's DERP map.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help=_("the customer's e-mail address"))

    def handle(self, *args: Any, email: str, **options: Any) -> None:
        rental = Rental.objects.filter(user__email=email.strip().lower()).first()
        if rental is None:
            raise CommandError(_("%(email)s has no rental.") % {"email": email})
        config = services.renew_map(rental=rental, by=None)
        row = {"email": rental.user.email, "version": config.version, "ends_at": config.ends_at}
        self.emit_one(row, {"email": _("Customer"), "version": _("version"), "ends_at": _("valid until")})
