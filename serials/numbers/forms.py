"""What people type to redeem, and what admins fill in to make serial numbers."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from serials.numbers import services
from serials.numbers.models import SerialBatch
from serials.rentals.wording import BYTES_PER_GB, BYTES_PER_MBIT

# A message with a code in it, as people paste it, is not longer.
LONGEST_TYPED = 2000


class CodeForm(forms.Form):
    """The serial box. Whether the code is right is the services' business; here it only has to be there."""

    code = forms.CharField(
        label=_("Serial number"),
        max_length=LONGEST_TYPED,
        error_messages={
            "required": _("Enter a serial number."),
            "max_length": services.SerialMistyped.sentence,
        },
    )


class ConfirmForm(CodeForm):
    """The confirmation: the code, and when its time is to start."""

    start = forms.ChoiceField(choices=[("afterwards", ""), ("now", "")], required=False)


def _traffic_field(label: Any) -> forms.IntegerField:
    return forms.IntegerField(
        label=label, required=False, min_value=1, max_value=10**6, help_text=_("Empty = unlimited.")
    )


class BatchForm(forms.ModelForm[SerialBatch]):
    """A new batch, with traffic and rate in the units that people use; `is_paid` is only offered to super admins."""

    quota_gb = _traffic_field(_("traffic a month in GB"))
    upload_quota_gb = _traffic_field(_("of it up, from devices, in GB"))
    download_quota_gb = _traffic_field(_("of it down, to devices, in GB"))
    rate_mbit = forms.IntegerField(
        label=_("rate limit in Mbit/s"),
        required=False,
        min_value=1,
        max_value=10**5,
        help_text=_("For each device; empty = none."),
    )
    is_paid = forms.BooleanField(
        label=_("paid"),
        required=False,
        # Who prints codes sells them by himself.
        initial=True,
        help_text=_("Unpaid ones cannot be redeemed until a super admin marks them as paid."),
    )

    class Meta:
        model = SerialBatch
        fields = [
            "name",
            "days",
            "count",
            "redeem_by",
            "device_limit",
            "at_quota",
            "grace_days",
            "may_open",
            "servers",
        ]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        services.check_batch(redeem_by=cleaned.get("redeem_by"), servers=cleaned.get("servers") or ())
        return cleaned

    def values(self) -> dict[str, Any]:
        """The cleaned values as `services.create_batch` takes them."""
        values = dict(self.cleaned_data)
        for name in ("quota", "upload_quota", "download_quota"):
            quota = values.pop(f"{name}_gb")
            values[f"{name}_bytes"] = quota and quota * BYTES_PER_GB
        rate = values.pop("rate_mbit")
        values["rate_bytes_per_second"] = rate and rate * BYTES_PER_MBIT
        return values
