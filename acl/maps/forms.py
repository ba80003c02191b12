"""What customers choose about their maps."""

from django import forms
from django.utils.translation import gettext_lazy as _

from acl.maps.derpmap import FIRST_REGION_ID, LAST_REGION_ID


class RegionIdForm(forms.Form):
    """Another region ID for one relay; whether it can be had is decided by the service."""

    region_id = forms.IntegerField(
        label=_("region ID"),
        error_messages={"invalid": _("Type a whole number."), "required": _("Type a number.")},
        widget=forms.NumberInput(
            attrs={
                "min": FIRST_REGION_ID,
                "max": LAST_REGION_ID,
                "class": "form-control",
                "inputmode": "numeric",
            }
        ),
    )


class ShownForm(forms.Form):
    """What stood on the page from which somebody acts: it may have been replaced since."""

    shown = forms.IntegerField(required=False)
