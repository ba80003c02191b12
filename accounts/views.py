"""The account's own pages; signing in, codes, passwords and second factors are allauth's."""

from contextlib import suppress

from allauth.account.decorators import reauthentication_required
from allauth.account.internal.flows.reauthentication import STATE_SESSION_KEY
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.forms import ActivateTOTPForm
from allauth.mfa.totp.views import ActivateTOTPView
from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET
from django.views.i18n import set_language

from accounts import push, services, sms
from accounts.forms import CloseForm, CodeForm, ProfileForm, PushForm, SmsForm
from accounts.models import Channel, User
from accounts.services import channels
from derpmgmt.lib import confirming, limits
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.way_back import page_before, posted_from

CHANNEL_RATE, SMS_RATE = "20/h", "5/h"


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


class AppActivateView(ActivateTOTPView):
    """A new authenticator app. The code that shows that it works is used up with it: it must not open anything once more."""

    @transaction.atomic
    def form_valid(self, form: ActivateTOTPForm) -> HttpResponse:
        """The app's row and its last code come in one transaction."""
        response = super().form_valid(form)
        app = Authenticator.objects.get(user=_user(self.request), type=Authenticator.Type.TOTP)
        services.use_up_code(app, form.cleaned_data["code"])
        return response


app_activate = AppActivateView.as_view()


@login_required
def account_show(request: HttpRequest) -> HttpResponse:
    """Name and language, and the ways to address, password, second factor and sessions."""
    user = _user(request)
    form = ProfileForm(request.POST or None, instance=User.objects.get(pk=user.pk))
    if request.method == "POST" and form.is_valid():
        name, language = form.cleaned_data["username"], form.cleaned_data["language"]
        try:
            services.change_user(user=user, by=user, username=name, language=language, role=user.role)
        except (services.AccountExists, services.NotAllowed) as error:
            form.add_error("username", str(error))
        else:
            with translation.override(language):
                messages.success(request, _("Saved."))
            return redirect("accounts:account-show")
    return render(request, "accounts/account_show.html", {"form": form})


@login_required
@require_GET
def sessions_end(request: HttpRequest) -> HttpResponse:
    """What ending all other sessions means, with the button; allauth's page ends them."""
    others = UserSession.objects.filter(user=_user(request)).exclude(
        session_key=request.session.session_key or ""
    )
    count = others.count()
    if not count:
        return redirect("usersessions_list")
    text = ngettext("Sign out the %(count)d other session?", "Sign out the %(count)d other sessions?", count)
    return confirming.ask(
        request,
        question=text % {"count": count},
        effects=[
            _("Every other browser in which you are signed in is signed out at once. This one stays."),
            _("If you do not know one of them, change your password afterwards."),
        ],
        act=_("Sign out the others"),
        back=reverse("usersessions_list"),
        address=reverse("usersessions_list"),
    )


@posted_from("home")
def language_set(request: HttpRequest) -> HttpResponse:
    """The language switch: Django's own view sets the cookie, and a signed-in person's choice stays with the account."""
    language = request.POST.get("language", "")
    if request.user.is_authenticated and translation.check_for_language(language):
        user = _user(request)
        # Whose account was closed in another tab has the cookie only.
        with suppress(services.NotAllowed):
            services.change_user(
                user=user, by=user, username=user.username, language=language, role=user.role
            )
    # Back to the page, also where what stands in the window is the answer to a button of it.
    values = request.POST.copy()
    values["next"] = page_before(request, values.get("next", ""))
    request.POST = values  # type: ignore[assignment]
    return set_language(request)


def account_close(request: HttpRequest) -> HttpResponse:
    """Closing one's own account: what it means, what stands in its way, and the button; after the password was asked again."""
    if request.method != "POST":
        # A click that was broken off where the password is asked is not taken up by who comes to read the page again.
        request.session.pop(STATE_SESSION_KEY, None)
    elif not request.user.is_authenticated:
        text = _(
            "You are signed out. If you have just closed your account, that is done: a last mail is on its way. If not, sign in and close it again."
        )
        messages.info(request, text)
    return _account_close(request)


@login_required
@reauthentication_required
def _account_close(request: HttpRequest) -> HttpResponse:
    user = _user(request)
    form = CloseForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            services.close_account(user=user, by=user, reason=services.OWN_WISH, ip=client_ip(request))
        except (services.ClosingRefused, services.NotAllowed):
            pass  # the page says why
        else:
            # Not auth.logout: it would write the address that has just been forgotten into the log.
            request.session.flush()
            request.user = AnonymousUser()
            return redirect("accounts:account-closed")
    reasons = services.closing_reasons(user)
    if user.is_staff:
        reasons = [_("An operator's account is closed by another super admin."), *reasons]
    return render(
        request,
        "accounts/account_close.html",
        {"form": form, "reasons": reasons, "losses": services.closing_losses(user)},
    )


def account_closed(request: HttpRequest) -> HttpResponse:
    """Where one stands after that."""
    return render(request, "accounts/account_closed.html")


@login_required
def channel_list(request: HttpRequest) -> HttpResponse:
    """How the person is told: by e-mail always, and by the channels that they add here."""
    user = _user(request)
    sent = request.POST.get("kind", "")
    push_form = PushForm(request.POST if sent == Channel.Kind.PUSH else None)
    sms_form = SmsForm(request.POST if sent == Channel.Kind.SMS else None) if sms.is_configured() else None
    if sent == Channel.Kind.PUSH and push_form.is_valid():
        limits.consume(request, group="channel", key=str(user.pk), rate=CHANNEL_RATE)
        try:
            channels.add_push_channel(user=user, address=push_form.cleaned_data["address"])
        except (push.AddressRefused, channels.ChannelRefused) as error:
            push_form.add_error("address", str(error))
        else:
            messages.success(request, _("Added. Send a test to see whether it works."))
            return redirect("accounts:channel-list")
    if sms_form is not None and sms_form.is_bound and sms_form.is_valid():
        # Each costs the operator money and may bother somebody else: counted by person and by number.
        number = sms_form.cleaned_data["number"]
        for key in (str(user.pk), number):
            limits.consume(request, group="sms", key=key, rate=SMS_RATE)
        try:
            channels.add_sms_channel(user=user, number=number)
        except channels.ChannelRefused as error:
            sms_form.add_error("number", str(error))
        except sms.SmsFailed:
            sms_form.add_error("number", _("The text message could not be sent. Try again later."))
        else:
            messages.success(request, _("We have sent you a code. Type it here within ten minutes."))
            return redirect("accounts:channel-list")
    own = Channel.objects.visible_to(user)
    return render(
        request,
        "accounts/channel_list.html",
        {"channels": own, "push_form": push_form, "sms_form": sms_form, "services": push.SERVICES.values()},
    )


def _find_channel(request: HttpRequest, pk: int, **wanted: str) -> Channel | None:
    """One of the person's channels; where it is gone (removed in another tab) they are told so."""
    channel = Channel.objects.visible_to(request.user).filter(pk=pk, **wanted).first()
    if channel is None:
        messages.info(request, _("This channel is not there any more."))
    return channel


@login_required
@posted_from("accounts:channel-list")
def channel_test(request: HttpRequest, pk: int) -> HttpResponse:
    """A few words by one of the person's push channels."""
    channel = _find_channel(request, pk, kind=Channel.Kind.PUSH)
    if channel is None:
        return redirect("accounts:channel-list")
    limits.consume(request, group="channel", key=str(channel.user_id), rate=CHANNEL_RATE)
    try:
        channels.send_test(channel=channel)
    except push.PushFailed as error:
        # A sentence of ours is translated, the service's own words stay as they are.
        reason = _(error.reason)
        if error.is_in_doubt:
            messages.warning(request, reason)
        else:
            messages.error(request, _("The service did not take it: %(reason)s") % {"reason": reason})
    else:
        messages.success(request, _("The service took it. Look whether it has arrived."))
    return redirect("accounts:channel-list")


@login_required
@posted_from("accounts:channel-list")
def channel_confirm(request: HttpRequest, pk: int) -> HttpResponse:
    """The code that came by text message."""
    channel = _find_channel(request, pk, kind=Channel.Kind.SMS)
    if channel is None:
        return redirect("accounts:channel-list")
    form = CodeForm(request.POST)
    try:
        if not form.is_valid():
            raise channels.ChannelRefused(_("The code is not right."))
        channels.confirm_sms_channel(channel=channel, code=form.cleaned_data["code"])
    except channels.ChannelRefused as error:
        messages.error(request, str(error))
    else:
        messages.success(request, _("The number is confirmed."))
    return redirect("accounts:channel-list")


@login_required
@posted_from("accounts:channel-list")
def channel_remove(request: HttpRequest, pk: int) -> HttpResponse:
    """One of the person's channels goes."""
    if channel := _find_channel(request, pk):
        channels.remove_channel(channel=channel)
        messages.success(request, _("Removed."))
    return redirect("accounts:channel-list")
