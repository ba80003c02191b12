from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from acl.maps import services
from derpmgmt.rental_command import RentalCommand


class Command(RentalCommand):
    """A customer's live URL."""

    help: Any = gettext_lazy(
        "Print a customer's live URL, and make it where there is none. Whoever has it reads the map; the activity log says that it was shown."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        url, is_new = services.reveal_live_url(rental=rental, by=None)
        self.emit_one(
            {
                "email": rental.user.email,
                "url": services.live_address(url),
                "live_id": url.pk,
                "is_new": is_new,
                "created_at": url.created_at,
                "last_fetched_at": url.last_fetched_at,
                "last_ip": url.last_ip,
                "last_browser": url.last_browser,
            },
            {"email": _("Customer"), "url": _("Live URL"), "created_at": _("Made"),
             "last_fetched_at": _("Last fetched"), "last_ip": _("IP address"), "last_browser": _("Program")},
        )  # fmt: skip
        if is_new:
            self.say(_("There was none, so it was made."))
