"""What people call what happens to devices."""

from django.utils.translation import gettext_lazy as _

from accounts.wordlist import Kind, declare

declare(
    actions={
        "device.added": _("Device added"),
        "device.approved": _("Device approved"),
        "device.place_given": _("Place given to another device"),
        "device.enrolled": _("Device approved automatically"),
        "device.revoked": _("Device revoked"),
        "device.renamed": _("Device renamed"),
        "devices.window_opened": _("Automatic approval started"),
        "devices.window_closed": _("Automatic approval ended"),
        "devices.checking_off": _("Device checking was turned off"),
        "devices.checking_on": _("Device checking was turned on"),
        "devices.verify_url_set": _("Own verify address set"),
        "devices.verify_url_removed": _("Own verify address removed"),
    },
    notices={
        "device_waiting": Kind(_("A device is waiting")),
        "places_full": Kind(_("All places for devices are taken")),
        "checking_on": Kind(_("Devices are checked again")),
    },
)
