"""What admins fill in about a rental."""

from datetime import date, datetime, time

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.acts import ActForm
from derpmgmt.lib.lines import LineFormField


def end_of_day(day: date) -> datetime:
    """The last second of a day in the panel's time zone: what “until this day” means."""
    return timezone.make_aware(datetime.combine(day, time(23, 59, 59)), timezone.get_default_timezone())


class RenewForm(ActForm):
    """Until which day an admin renews a rental."""

    until = forms.DateField(
        label=_("Last day"), widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    )
    note = LineFormField(
        label=_("Note"), required=False, max_length=200, help_text=_("Operators read it beside the renewal.")
    )


class PauseForm(ActForm):
    """Why an admin pauses a rental."""

    reason = LineFormField(label=_("Reason (the customer is told)"), required=False, max_length=200)
