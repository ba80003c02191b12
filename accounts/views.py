"""The account's own pages; signing in, codes, passwords and second factors are allauth's."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import translation
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST
from django.views.i18n import set_language

from accounts import services
from accounts.forms import ProfileForm
from accounts.models import User


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


@login_required
def account_show(request: HttpRequest) -> HttpResponse:
    """Name and language, and the ways to address, password, second factor and sessions."""
    user = _user(request)
    form = ProfileForm(request.POST or None, instance=User.objects.get(pk=user.pk))
    if request.method == "POST" and form.is_valid():
        name, language = form.cleaned_data["username"], form.cleaned_data["language"]
        try:
            services.change_user(user=user, by=user, username=name, language=language, role=user.role)
        except services.AccountExists as error:
            form.add_error("username", str(error))
        else:
            with translation.override(language):
                messages.success(request, _("Saved."))
            return redirect("accounts:account-show")
    return render(request, "accounts/account_show.html", {"form": form})


@require_POST
def language_set(request: HttpRequest) -> HttpResponse:
    """The language switch: Django's own view sets the cookie, and a signed-in person's choice stays with the account."""
    language = request.POST.get("language", "")
    if request.user.is_authenticated and translation.check_for_language(language):
        user = _user(request)
        services.change_user(user=user, by=user, username=user.username, language=language, role=user.role)
    return set_language(request)
