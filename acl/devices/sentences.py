"""What is said of devices that somebody let in, on their page and by the API."""

from collections.abc import Iterator

from django.contrib.messages import constants
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from acl.devices.models import Device
from acl.devices.services import Added

# Devices that a sentence names.
_MOST_NAMED = 5


def say_added(added: Added) -> Iterator[tuple[int, str]]:
    """What became of devices that were named, but for those without a place; each sentence with its level (of Django's messages)."""
    if added.added:
        text = ngettext(
            "%(count)d device was added: %(names)s",
            "%(count)d devices were added: %(names)s",
            len(added.added),
        )
        yield constants.SUCCESS, text % {"count": len(added.added), "names": _names(added.added)}
    if added.known:
        text = ngettext(
            "%(count)d device was approved already: %(names)s",
            "%(count)d devices were approved already: %(names)s",
            len(added.known),
        )
        yield constants.INFO, text % {"count": len(added.known), "names": _names(added.known)}
    if added.revoked:
        text = ngettext(
            "%(count)d device is revoked and was left out: %(names)s. Paste its key alone, or approve it again among the revoked ones.",
            "%(count)d devices are revoked and were left out: %(names)s. Paste their keys one by one, or approve them again among the"
            " revoked ones.",
            len(added.revoked),
        )
        yield constants.WARNING, text % {"count": len(added.revoked), "names": _names(added.revoked)}


def say_left_out(added: Added) -> str:
    """How many found no place; "" for none."""
    if not added.left_out:
        return ""
    text = ngettext(
        "All places are taken: this %(count)d device was left out.",
        "All places are taken: these %(count)d devices were left out.",
        len(added.left_out),
    )
    return text % {"count": len(added.left_out)}


def say_approved(device: Device, *, is_replacing: bool) -> str:
    """What it means that a device was approved, `is_replacing` in the place of its old self."""
    if is_replacing:
        text = _("%(device)s has taken the place of its old self; the old key stays out.")
    elif not device.rental.is_entitled(timezone.now()):
        text = _("%(device)s is approved, and may use your relays once the rental is active again.")
    else:
        text = _(
            "%(device)s may use your relays now. It connects at its next attempt, within a minute or so."
        )
    return text % {"device": device}


def _names(devices: tuple[Device, ...]) -> str:
    names = ", ".join(str(device) for device in devices[:_MOST_NAMED])
    return f"{names} …" if len(devices) > _MOST_NAMED else names
