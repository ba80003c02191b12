"""What people call what happens to rentals."""

from django.utils.translation import gettext_lazy as _

from accounts.wordlist import Kind, declare

declare(
    actions={
        "rental.renewed": _("Rental renewed"),
        "rental.waiting_credited": _("Waiting time given back"),
        "rental.paused": _("The rental was paused"),
        "rental.resumed": _("The rental was resumed"),
        "rental.expired": _("The rental ended"),
        "rental.closed": _("The rental was closed"),
        "rental.limits_changed": _("Limits of a customer changed"),
        "rental.traffic_added": _("Traffic added"),
        "rental.stopped": _("Stopped, traffic used up"),
        "rental.going_on": _("Goes on, traffic left again"),
    },
    notices={
        "rental_redeemed": Kind(_("The rental has begun")),
        "rental_renewed": Kind(_("Rental renewed")),
        "rental_ending": Kind(_("The rental ends soon"), by_sms=True),
        "rental_ended": Kind(_("The rental has ended"), by_sms=True),
        "rental_paused": Kind(_("The rental is paused")),
        "rental_resumed": Kind(_("The rental is resumed")),
        "account_closing": Kind(_("The account will be closed"), by_sms=True),
        "account_closing_refused": Kind(_("An account cannot be closed yet")),
    },
)
