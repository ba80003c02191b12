"""The account's page of API tokens."""

from datetime import timedelta

from allauth.account.decorators import reauthentication_required
from allauth.account.internal.flows.reauthentication import STATE_SESSION_KEY
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.access import tokens
from accounts.access.models import ApiToken
from accounts.forms import TokenForm
from accounts.models import User
from accounts.requests import SignedInRequest
from accounts.services import NotAllowed, has_second_factor
from derpmgmt.lib.address import client_ip


@login_required
def token_list(request: SignedInRequest) -> HttpResponse:
    """The person's tokens and the form for a new one; its text is in the answer to the click and nowhere else."""
    if request.method != "POST":
        # A click that was broken off where the password is asked is not taken up by who comes to read the page again.
        request.session.pop(STATE_SESSION_KEY, None)
    return _token_list(request)


@reauthentication_required(allow_get=True)
def _token_list(request: HttpRequest) -> HttpResponse:
    user, text, made = request.user, "", None
    assert isinstance(user, User)
    form = TokenForm(request.POST if request.method == "POST" else None, user=user)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        expires_at = timezone.now() + timedelta(days=data["days"]) if data["days"] else None
        try:
            made, text = tokens.create_token(
                user=user,
                name=data["name"],
                scopes=data["scopes"],
                expires_at=expires_at,
                ip=client_ip(request),
                newest=data["newest"],
            )
        except (tokens.TokenRefused, NotAllowed) as error:
            form.add_error(error.field or None, str(error))
        else:
            form = TokenForm(user=user)
    rows = list(tokens.shown_tokens(user))
    return render(
        request,
        "accounts/token_list.html",
        {
            "tokens": rows,
            "form": form,
            "made": made,
            "text": text,
            # As the page shows them now, also where the form comes back.
            "newest": rows[0].pk if rows else 0,
            "needs_second_factor": user.is_staff and not has_second_factor(user),
        },
    )


@login_required
def token_revoke(request: SignedInRequest, pk: int) -> HttpResponse:
    """Asks whether one of the person's tokens is to be revoked, and does it."""
    token = ApiToken.objects.visible_to(request.user).filter(pk=pk).first()
    if token is None:
        messages.info(request, _("This token is not there any more."))
        return redirect("accounts:token-list")
    if request.method != "POST" and token.state == "valid":
        return render(request, "accounts/token_revoke.html", {"token": token})
    if token.state == "ended":
        messages.info(request, _("This token has ended already."))
    elif request.method == "POST" and tokens.revoke_token(
        token=token, by=request.user, ip=client_ip(request)
    ):
        messages.success(request, _("The token is revoked."))
    else:
        messages.info(request, _("This token was revoked already."))
    return redirect("accounts:token-list")
