"""The admin's buttons at devices."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.acts import Act, ActForm, Doing, Ticked
from acl.devices import services
from acl.devices.models import Device


def _holders(device: Device) -> list[Device]:
    return services.replaceable_devices(device_pk=device.pk, now=timezone.now())


class PlaceForm(ActForm):
    """Whose place a device is given."""

    holder = forms.ChoiceField(label=gettext_lazy("Device that gives its place"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._holders = {str(holder.pk): holder for holder in _holders(self.row)}
        choice: Any = self.fields["holder"]
        choice.choices = [(pk, f"{holder} · {holder.node_key[:8]}…") for pk, holder in self._holders.items()]

    def clean_holder(self) -> Device:
        """The device that was chosen."""
        return self._holders[self.cleaned_data["holder"]]


def _give_place(device: Device, doing: Doing) -> str:
    holder = doing.data["holder"]
    services.give_place(device=holder, to=device, by=doing.by, ip=doing.ip)
    return _("%(old)s is revoked, and %(new)s has its place.") % {"old": holder, "new": device}


def _needs_no_place(device: Device) -> str:
    if device.status == Device.Status.APPROVED:
        return _("%(device)s is approved already.") % {"device": device}
    return _("There are places left: approve %(device)s.") % {"device": device}


def _approve(device: Device, doing: Doing) -> str:
    services.approve_device(device=device, by=doing.by, ip=doing.ip)
    return _("%(device)s of %(customer)s is approved.") % {"device": device, "customer": device.rental}


def _revoke(device: Device, doing: Doing) -> str | None:
    if not services.revoke_device(device=device, by=doing.by, ip=doing.ip):
        return None
    return _("%(device)s of %(customer)s is revoked; its connections are being cut.") % {
        "device": device,
        "customer": device.rental,
    }


def _named(device: Device) -> str:
    return f"{device.rental} · {device}"


def _explain_approvals(count: int) -> Iterator[str]:
    text = ngettext(
        "%(count)d device may use its customer's relays and takes one of their places.",
        "%(count)d devices may use their customers' relays, and each takes one of their places.",
        count,
    )
    yield text % {"count": count}


def _explain_revocations(count: int) -> Iterator[str]:
    text = ngettext(
        "%(count)d device is cut off at once and stays out.",
        "%(count)d devices are cut off at once and stay out.",
        count,
    )
    yield text % {"count": count}


DEVICE_ACTS = (
    Act(
        verb="give-place",
        is_danger=True,
        label=gettext_lazy("Give it another one's place"),
        fits=lambda device: bool(_holders(device)),
        otherwise=_needs_no_place,
        explain=lambda device: [
            _(
                "All places of %(customer)s are taken. %(device)s gets the place of the device that you choose; that one is revoked and cut off at once."
            )
            % {"customer": device.rental, "device": device}
        ],
        form=PlaceForm,
        run=_give_place,
    ),
    Act(
        verb="approve",
        label=gettext_lazy("Approve"),
        fits=lambda device: device.status != Device.Status.APPROVED,
        otherwise=lambda device: _("%(device)s is approved already.") % {"device": device},
        explain=lambda device: [
            _("%(device)s may use the relays of %(customer)s and takes one of their places.")
            % {"device": device, "customer": device.rental}
        ],
        run=_approve,
        ticked=Ticked(
            label=gettext_lazy("Approve the selected devices"),
            explain=_explain_approvals,
            done=lambda count: (
                ngettext("%(count)d device is approved.", "%(count)d devices are approved.", count)
                % {"count": count}
            ),
            name=_named,
        ),
    ),
    Act(
        verb="revoke",
        label=gettext_lazy("Revoke"),
        is_danger=True,
        fits=lambda device: device.status != Device.Status.REVOKED,
        otherwise=lambda device: _("%(device)s is revoked already.") % {"device": device},
        explain=lambda device: [
            _("%(device)s of %(customer)s is cut off at once and stays out.")
            % {"device": device, "customer": device.rental}
        ],
        run=_revoke,
        ticked=Ticked(
            label=gettext_lazy("Revoke the selected devices (cuts their connections)"),
            explain=_explain_revocations,
            done=lambda count: (
                ngettext(
                    "%(count)d device is revoked; its connections are being cut.",
                    "%(count)d devices are revoked; their connections are being cut.",
                    count,
                )
                % {"count": count}
            ),
            name=_named,
        ),
    ),
)
