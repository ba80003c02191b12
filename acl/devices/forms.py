"""What customers type about their map and their devices."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from acl.devices.node_keys import NewDevice, NoNodeKey, NotAList, TooLong, has_other_key, parse_devices
from acl.devices.services import WINDOWS


class PastedField(forms.CharField):
    """A text as terminals and files have it: NUL, of which UTF-16 that was read byte by byte is full, is no reason to refuse it."""

    def to_python(self, value: Any) -> str:
        """The text without NUL."""
        return str(super().to_python(value.replace("\0", "") if isinstance(value, str) else value))


class PasteForm(forms.Form):
    """Devices as people paste them; `cleaned_data["text"]` is a list of `NewDevice`."""

    text = PastedField(
        label=_("Node key, a list of them, or the output of the command"),
        strip=False,
        error_messages={"required": _("Paste a node key first.")},
        widget=forms.Textarea(
            attrs={
                "rows": 5,
                "class": "form-control font-monospace",
                "spellcheck": "false",
                "autocapitalize": "off",
            }
        ),
    )

    def clean_text(self) -> list[NewDevice]:
        """The devices that the text names."""
        text = self.cleaned_data["text"]
        try:
            return parse_devices(text)
        except NotAList as error:
            raise forms.ValidationError(
                _(
                    "This is not all that the command prints, or something stands in its middle, so it does not say whose devices"
                    " these are. Run “tailscale status --json” or “headscale nodes list --output json” again and paste all of it,"
                    " from the first { or [ to the last } or ]. Single node keys can be pasted one a line."
                )
            ) from error
        except TooLong as error:
            raise forms.ValidationError(_("This is too long. Paste the devices in several parts.")) from error
        except NoNodeKey:
            pass
        if has_other_key(text):
            raise forms.ValidationError(
                _(
                    "This is a key of another kind, such as a machine key or an auth key. The node key begins with nodekey: and"
                    " is printed by the command on this page."
                )
            )
        raise forms.ValidationError(
            _("There is no whole node key in it. A node key is nodekey: and 64 characters, 0–9 and a–f.")
        )


class WindowForm(forms.Form):
    """For how long devices are to be approved by themselves."""

    minutes = forms.TypedChoiceField(
        choices=[(int(length.total_seconds() // 60), "") for length in WINDOWS], coerce=int
    )


class OpenForm(forms.Form):
    """The confirmation that everybody shall be let in."""

    is_sure = forms.BooleanField(
        label=_("I know that strangers can then use my relays and my traffic."),
        error_messages={"required": _("Tick the box if you really want this.")},
        widget=forms.CheckboxInput(attrs={"class": "form-check-input"}),
    )


class VerifyUrlForm(forms.Form):
    """The customer's own verify address; whether it answers is found out by asking it."""

    url = forms.CharField(
        label=_("Address"),
        max_length=300,
        error_messages={
            "required": _("Enter the address."),
            "max_length": _("The address is longer than 300 characters."),
        },
        help_text=_("For Headscale: https://, its address, /verify"),
        widget=forms.TextInput(attrs={"inputmode": "url", "autocomplete": "off"}),
    )
