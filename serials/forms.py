"""What people type to redeem, and what admins fill in to make serial numbers."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from serials.models import SerialBatch
from serials.services import SerialMistyped


class CodeForm(forms.Form):
    """The serial box. Whether the code is right is the services' business; here it only has to be there."""

    code = forms.CharField(
        label=_("Serial number"),
        max_length=200,
        error_messages={"required": _("Enter a serial number."), "max_length": SerialMistyped.sentence},
    )


class ConfirmForm(CodeForm):
    """The confirmation: the code, and when its time is to start."""

    start = forms.ChoiceField(choices=[("afterwards", ""), ("now", "")], required=False)


class BatchForm(forms.ModelForm[SerialBatch]):
    """A new batch; `is_paid` is only offered to super admins."""

    is_paid = forms.BooleanField(
        label=_("paid"),
        required=False,
        help_text=_("Unpaid ones cannot be redeemed until a super admin marks them as paid."),
    )

    class Meta:
        model = SerialBatch
        fields = [
            "name", "days", "count", "redeem_by", "is_paid",
            "device_limit", "quota_bytes", "rate_bytes_per_second", "at_quota", "servers",
        ]  # fmt: skip

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if 0 < len(cleaned.get("servers") or ()) < SerialBatch.FEWEST_SERVERS:
            self.add_error("servers", _("Choose at least three servers, or none for all."))
        return cleaned
