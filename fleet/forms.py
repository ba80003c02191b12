"""Input about servers."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.lines import LineFormField
from fleet.adding import tidy_key
from fleet.models import ProviderAccount, Server, SshCredential
from fleet.ssh import HostKey, RemoteError


class SecretMixin:
    """Secret fields are never shown again: left empty they keep what is stored."""

    secret_fields: tuple[str, ...] = ()
    fields: dict[str, forms.Field]
    instance: Any
    cleaned_data: dict[str, Any]

    def hide_secrets(self) -> None:
        """Empty the fields on the page and say what that means."""
        for name in self.secret_fields:
            self.initial[name] = ""  # type: ignore[attr-defined]
            if getattr(self.instance, name):
                self.fields[name].help_text = _("Stored and not shown; leave empty to keep it.")

    def keep_secrets(self) -> None:
        """Put the stored value in the place of an empty one."""
        for name in self.secret_fields:
            if not self.cleaned_data.get(name):
                self.cleaned_data[name] = getattr(
                    type(self.instance).objects.filter(pk=self.instance.pk).first(), name, ""
                )


class CredentialForm(SecretMixin, forms.ModelForm[SshCredential]):
    """How to sign in at servers."""

    secret_fields = ("private_key", "password")

    class Meta:
        model = SshCredential
        fields = ("name", "username", "private_key", "password")
        widgets = {
            "private_key": forms.Textarea(attrs={"rows": 8, "autocomplete": "off", "spellcheck": "false"}),
            "password": forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hide_secrets()

    def clean_private_key(self) -> str:
        try:
            return tidy_key(str(self.cleaned_data["private_key"]))
        except RemoteError as error:
            raise ValidationError(str(error)) from error

    def clean(self) -> dict[str, Any]:
        super().clean()
        self.keep_secrets()
        if not self.errors and not (self.cleaned_data["private_key"] or self.cleaned_data["password"]):
            raise ValidationError(_("Give a private key or a password."))
        return self.cleaned_data


class ProviderAccountForm(SecretMixin, forms.ModelForm[ProviderAccount]):
    """An account at a cloud provider."""

    secret_fields = ("phone",)
    phone = LineFormField(
        label=_("phone number"), required=False, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )

    class Meta:
        model = ProviderAccount
        fields = ("provider", "name", "phone")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hide_secrets()

    def clean(self) -> dict[str, Any]:
        super().clean()
        self.keep_secrets()
        return self.cleaned_data


SERVER_FIELDS = (
    "name",
    "region",
    "provider_account",
    "address",
    "bind_address",
    "ssh_host",
    "ssh_port",
    "credential",
    "docker_socket",
    "capacity",
    "tcp_port_first",
    "tcp_port_last",
    "udp_port_first",
    "udp_port_last",
    "is_fail_open",
    "traffic_reset_day",
    "traffic_limit_bytes",
    "customer_limit",
)


class GigabytesField(forms.DecimalField):
    """Bytes, which people give and read in GB."""

    _UNIT = 10**9

    def prepare_value(self, value: Any) -> Any:
        return (Decimal(value) / self._UNIT).normalize() if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        size = super().clean(value)
        return None if size is None else int(size * self._UNIT)


class ServerForm(forms.ModelForm[Server]):
    """A server's registration."""

    traffic_limit_bytes = GigabytesField(
        label=_("traffic a month in GB"),
        required=False,
        min_value=Decimal("0.001"),
        max_value=10**6,
        decimal_places=3,
        help_text=_("Both ways together; empty = unlimited."),
    )

    class Meta:
        model = Server
        fields = SERVER_FIELDS


class HostKeyForm(forms.Form):
    """The host key that a person saw and confirms: what was shown comes back, so that no other key is pinned."""

    line = forms.CharField(widget=forms.HiddenInput, max_length=1200)

    def clean_line(self) -> str:
        try:
            return HostKey.from_line(str(self.cleaned_data["line"])).line
        except ValueError as error:
            raise ValidationError(_("This is no host key.")) from error
