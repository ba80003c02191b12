"""What admins fill in about a rental."""

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.acts import ActForm
from derpmgmt.lib.lines import LineFormField
from serials.rentals.limits import AtQuota
from serials.rentals.wording import BYTES_PER_GB, BYTES_PER_MBIT


def end_of_day(day: date) -> datetime:
    """The last second of a day in the panel's time zone: what “until this day” means."""
    return timezone.make_aware(datetime.combine(day, time(23, 59, 59)), timezone.get_default_timezone())


def _traffic_field(label: Any) -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        required=False,
        min_value=0,
        max_value=10**6,
        decimal_places=3,
        help_text=_("Empty = as it is otherwise, 0 = unlimited."),
    )


class RenewForm(ActForm):
    """Until which day an admin renews a rental."""

    until = forms.DateField(
        label=_("Last day"), widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    )
    note = LineFormField(
        label=_("Note"), required=False, max_length=200, help_text=_("Operators read it beside the renewal.")
    )


class LimitsForm(ActForm):
    """What counts for one customer, or one relay, instead of what was sold; in the units that people use."""

    both_gb = _traffic_field(_("Traffic a month in GB"))
    up_gb = _traffic_field(_("of it up, from devices, in GB"))
    down_gb = _traffic_field(_("of it down, to devices, in GB"))
    rate_mbit = forms.DecimalField(
        label=_("Rate limit in Mbit/s"),
        required=False,
        min_value=0,
        max_value=10**5,
        decimal_places=3,
        help_text=_("For each device; empty = as it is otherwise, 0 = none."),
    )
    at_quota = forms.ChoiceField(
        label=_("At the allowance"),
        required=False,
        choices=[("", _("as sold")), *AtQuota.choices],
    )
    note = LineFormField(
        label=_("Note"), required=False, max_length=200, help_text=_("Operators read it beside the limits.")
    )

    _UNITS = (
        ("both_gb", "cap_both_bytes", BYTES_PER_GB),
        ("up_gb", "cap_up_bytes", BYTES_PER_GB),
        ("down_gb", "cap_down_bytes", BYTES_PER_GB),
        ("rate_mbit", "cap_rate", BYTES_PER_MBIT),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, column, unit in self._UNITS:
            said = getattr(self.row, column)
            self.fields[name].initial = None if said is None else Decimal(said) / unit
        self.fields["at_quota"].initial = self.row.cap_at_quota
        self.fields["note"].initial = self.row.cap_note

    def clean(self) -> dict[str, Any]:
        """With `caps`: what was said, as services take it."""
        values = super().clean() or {}
        caps: dict[str, Any] = {
            column: None if (said := values.get(name)) is None else int(said * unit)
            for name, column, unit in self._UNITS
        }
        return values | {"caps": caps | {"cap_at_quota": values.get("at_quota", "")}}


class CustomerLimitsForm(LimitsForm):
    """As `LimitsForm`, with the number of devices, which relays have none of their own."""

    devices = forms.IntegerField(
        label=_("Devices"), required=False, min_value=1, max_value=1000, help_text=_("Empty = as sold.")
    )
    field_order = ("both_gb", "up_gb", "down_gb", "rate_mbit", "devices", "at_quota", "note")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["devices"].initial = self.row.cap_devices

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        return values | {"caps": values["caps"] | {"cap_devices": values.get("devices")}}


class TrafficForm(ActForm):
    """How much traffic a month gets on top."""

    size_gb = forms.DecimalField(
        label=_("Traffic in GB"), min_value=Decimal("0.001"), max_value=10**6, decimal_places=3
    )
    note = LineFormField(
        label=_("Note"), required=False, max_length=200, help_text=_("Operators read it beside the traffic.")
    )
    # What had been added when the page was made: the same page sent twice adds once.
    after = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["after"].initial = self.row.traffic_grants.count()


class PauseForm(ActForm):
    """Why an admin pauses a rental."""

    reason = LineFormField(label=_("Reason (the customer is told)"), required=False, max_length=200)
