"""What people type about their account."""

from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.forms import ConfirmEmailVerificationCodeForm
from allauth.account.forms import SignupForm as AllauthSignupForm
from allauth.core import context
from allauth.mfa.adapter import get_adapter as get_mfa_adapter
from allauth.mfa.base.forms import AuthenticateForm, BaseAuthenticateForm, ReauthenticateForm
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn.forms import AddWebAuthnForm, EditWebAuthnForm
from django import forms
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts import push, sms, tries, usernames
from accounts.access.models import Scope
from accounts.access.tokens import scopes_of
from accounts.acts import ActForm
from accounts.models import USERNAME_VALIDATORS, User
from accounts.services import use_up_code
from derpmgmt.lib.lines import LineFormField


class SignupForm(AllauthSignupForm):
    """Address and one password; the user name is made from the address, unless `asks_name`, as for programs."""

    def __init__(self, *args: Any, asks_name: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not asks_name:
            del self.fields["username"]

    def try_save(self, request: HttpRequest) -> Any:
        """For an address that is known no account is made, but the same work is done: the time must not tell which it was."""
        if self.account_already_exists:
            make_password(self.cleaned_data["password1"])
        return super().try_save(request)


class MailedCodeForm(ConfirmEmailVerificationCodeForm):
    """The code that was mailed to an address. allauth counts wrong ones in the session, which many requests at once read before one
    writes it; so each code has its own count too, taken before it is compared: three tries out of a million codes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["code"].widget.attrs |= {"inputmode": "numeric", "placeholder": ""}

    def clean_code(self) -> str:
        tries.take_mailed_code(context.request, code=self.expected_code, email=self.email or "")
        return str(super().clean_code())


class AddKeyForm(AddWebAuthnForm):
    """A new passkey; allauth's form leaves the name's label untranslated, and takes any text for one."""

    name = LineFormField(label=_("Name of the key"), required=False)


class RenameKeyForm(EditWebAuthnForm):
    """As above, for a new name."""

    name = LineFormField(label=_("Name of the key"))


class _OnceForm(BaseAuthenticateForm):
    """A code counts once (RFC 6238, section 5.2), by the app's row in the database: allauth remembers it in the cache, which may be
    away, and for less time than it is good for. Recovery codes it strikes out in their row itself."""

    def clean_code(self) -> str:
        tries.ask(context.request, tries.SECOND_FACTOR, user=self.user)
        try:
            code = super().clean_code()
            if self.authenticator.type == Authenticator.Type.TOTP and not use_up_code(
                self.authenticator, code
            ):
                raise get_mfa_adapter().validation_error("incorrect_code")
        except forms.ValidationError:
            tries.count(context.request, tries.SECOND_FACTOR, user=self.user)
            raise
        return code


class SecondFactorForm(_OnceForm, AuthenticateForm):
    """The code of somebody who signs in."""

    @property
    def kinds(self) -> set[str]:
        """Which second factors this person has: "totp", "webauthn", "recovery_codes"."""
        return set(Authenticator.objects.filter(user=self.user).values_list("type", flat=True))


class SecondFactorAgainForm(_OnceForm, ReauthenticateForm):
    """The code of somebody who has signed in and does something that matters."""


class ProfileForm(forms.ModelForm[User]):
    """The person's own name and language."""

    language = forms.ChoiceField(label=_("Language"), choices=settings.LANGUAGES)

    class Meta:
        model = User
        fields = ["username", "language"]
        labels = {"username": _("User name")}
        help_texts = {
            "username": _("2 to 30 letters a to z, Chinese characters, digits, hyphens, dots or underscores.")
        }

    def clean_username(self) -> str:
        username = usernames.normalize(self.cleaned_data["username"])
        if username == self.instance.username:
            return username
        return str(get_adapter().clean_username(username))


class PushForm(forms.Form):
    """The address of a push service, in apprise's form or as the service shows it."""

    address = forms.CharField(
        label=_("Address of the service"),
        max_length=push.LONGEST,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
        ),
    )


class SmsForm(forms.Form):
    """A mobile number."""

    number = forms.CharField(
        label=_("Mobile number"),
        max_length=20,
        widget=forms.TextInput(attrs={"type": "tel", "autocomplete": "tel"}),
    )

    def clean_number(self) -> str:
        try:
            return sms.read_number(self.cleaned_data["number"])
        except sms.NumberRefused as error:
            raise forms.ValidationError(str(error)) from error


class CodeForm(forms.Form):
    """A code that came by text message."""

    code = forms.CharField(max_length=10)


# What a token's scope means to whoever ticks it.
_SCOPE_WORDS = {
    Scope.READ: _("See the account, its relays, maps, devices and history."),
    Scope.ACT: _("Redeem, renew, make maps, approve devices: what its owner does on their own pages."),
    Scope.SELL: _("Make serial numbers and look them up."),
    Scope.OPERATE: _("What an operator does on the operators' pages: servers, relays, people, messages."),
}


class TokenForm(forms.Form):
    """A new API token of `user`."""

    name = LineFormField(
        label=_("Name"),
        max_length=60,
        help_text=_("By which you tell it from others, like the program or the machine that uses it."),
    )
    scopes = forms.MultipleChoiceField(
        label=_("It may"),
        widget=forms.CheckboxSelectMultiple(attrs={"class": "form-check-input"}),
        error_messages={"required": _("Choose at least one.")},
    )
    days = forms.TypedChoiceField(label=_("Valid for"), coerce=int, initial=90)
    # The newest token on the page, so that a second click makes no second one.
    newest = forms.IntegerField(
        widget=forms.HiddenInput,
        min_value=0,
        max_value=2**63 - 1,
        error_messages=dict.fromkeys(
            ("required", "invalid", "min_value", "max_value"), _("Send the form once more.")
        ),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field: Any = self.fields["scopes"]
        field.choices = [(scope.value, scope.label) for scope in scopes_of(user)]
        lasting: Any = self.fields["days"]
        lasting.choices = [
            *(
                (days, ngettext("%(count)d day", "%(count)d days", days) % {"count": days})
                for days in (30, 90, 365)
            ),
            (0, _("for ever, until it is revoked")),
        ]

    def scope_rows(self) -> list[tuple[Any, str]]:
        """Each box, and what it means."""
        return [(box, str(_SCOPE_WORDS[Scope(box.data["value"])])) for box in self["scopes"]]


class CloseForm(forms.Form):
    """The word of a person that they mean it."""

    is_sure = forms.BooleanField(
        label=_("I want to close my account for good. I know that this cannot be undone.")
    )


class BanForm(ActForm):
    """Why somebody is banned."""

    reason = LineFormField(
        label=_("Reason"),
        max_length=200,
        required=False,
        help_text=_("Operators read it in the activity log; do not name the person."),
    )


class AdminCloseForm(ActForm):
    """Why an admin closes somebody's account."""

    reason = LineFormField(
        label=_("Reason"),
        max_length=200,
        required=False,
        help_text=_("Kept with the account; do not name the person."),
    )


class UsernameField(forms.CharField):
    """A user name in the admin; what is typed is put in order before it is judged."""

    def __init__(self, **options: Any) -> None:
        super().__init__(label=_("User name"), validators=USERNAME_VALIDATORS, **options)

    def to_python(self, value: Any) -> str:
        return usernames.normalize(super().to_python(value) or "")


class UserCreateForm(forms.ModelForm[User]):
    """A new account made in the admin: its address counts as confirmed, the password is set by "forgot password"."""

    username = UsernameField(required=False, help_text=_("Empty: made from the address."))

    class Meta:
        model = User
        fields = ["email", "username", "role"]

    def clean_email(self) -> str:
        return self.cleaned_data["email"].strip().lower()


class UserChangeForm(forms.ModelForm[User]):
    """What an admin may change of an account; the rest is the person's own or has its own button."""

    username = UsernameField()
    language = forms.ChoiceField(label=_("Language"), choices=settings.LANGUAGES)

    class Meta:
        model = User
        fields = ["username", "language", "role"]
        help_texts = {"username": ""}  # Django's own speaks of other rules, where the name is only shown
