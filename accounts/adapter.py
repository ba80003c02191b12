"""Where allauth asks us."""

import uuid
from collections.abc import Callable
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from django import forms
from django.conf import settings
from django.contrib.sites.shortcuts import get_current_site
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from accounts import services, tries, usernames
from accounts.brand import current_brand, sender
from accounts.models import User
from derpmgmt.lib import crypto
from derpmgmt.lib.address import client_ip, wide_network
from derpmgmt.lib.mail import deliver


class AccountAdapter(DefaultAccountAdapter):
    """allauth's hooks for this panel."""

    def get_client_ip(self, request: HttpRequest) -> str:
        return client_ip(request)

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Before a password is tried: raises `TooManyRequests` where too many were wrong."""
        tries.ask(request, tries.PASSWORD, email=str(credentials.get("email") or ""))

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        """Only a wrong password counts."""
        tries.count(request, tries.PASSWORD, email=str(credentials.get("email") or ""))

    def clean_username(self, username: str, shallow: bool = False) -> str:
        """As allauth does, of the name put in order; one that is taken, or looks like the staff's, is refused with a free one beside it."""
        username = usernames.normalize(username)
        try:
            username = super().clean_username(username, shallow)
            is_taken = not shallow and services.looks_like_staff(username)
        except ValidationError as error:
            if error.code != "username_taken":
                raise
            is_taken = True
        if is_taken:
            free = services.suggest_username(username)
            raise ValidationError(
                _("The user name “%(taken)s” is taken. “%(free)s” is free.")
                % {"taken": username, "free": free},
                code="username_taken",
            )
        return username

    def populate_username(self, request: HttpRequest, user: User) -> None:
        """An empty user name is made from the address."""
        if not user.username:
            user.username = services.suggest_username(user.email)

    def save_user(self, request: HttpRequest, user: User, form: forms.BaseForm, commit: bool = True) -> User:
        """A new account keeps the language in which it was made."""
        user.language = get_language() or user.language
        return super().save_user(request, user, form, commit)

    def render_mail(
        self,
        template_prefix: str,
        email: str | list[str],
        context: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> EmailMessage:
        """allauth's texts in our frame: plain text, and HTML made from the same words with the code or the link set out."""
        brand = current_brand()
        message = super().render_mail(template_prefix, email, context | {"brand": brand}, headers)
        parts = [
            {
                "text": text,
                "is_code": text == context.get("code"),
                "is_link": text.startswith(("http://", "https://")),
            }
            # The last part is who writes, which the frame has of itself.
            for text in (part.strip() for part in str(message.body).split("\n\n")[:-1])
            if text
        ]
        html = render_to_string(
            "account/email/message.html",
            {"subject": message.subject, "parts": parts, "brand": brand, "panel_url": settings.PUBLIC_URL},
        )
        assert isinstance(message, EmailMultiAlternatives)
        message.attach_alternative(html, "text/html")
        return message

    def get_from_email(self) -> str:
        """By the brand's name."""
        return sender()

    def send_mail(
        self,
        template_prefix: str,
        email: str,
        context: dict[str, Any],
        before_handing: Callable[[], None] | None = None,
    ) -> None:
        """A code or another mail that the person waits for: it goes now, or they are told that it does not."""
        message = self._render(template_prefix, email, context)
        is_known, network = tries.is_known(self.request, email), wide_network(self.request)
        deliver(message, is_asked=True, is_known=is_known, network=network, before_handing=before_handing)

    def send_notification_mail(
        self,
        template_prefix: str,
        user: User,
        context: dict[str, Any] | None = None,
        email: str | None = None,
    ) -> None:
        """What the person has to know about their account's safety: a notice, which waits its turn where mail is limited."""
        message = self._render(
            template_prefix,
            email or user.email,
            {
                "timestamp": timezone.now(),
                "ip": self.get_client_ip(self.request),
                "user_agent": self.get_http_user_agent(self.request)[:200],
                "user": user,
                **(context or {}),
            },
        )
        html, _kind = message.alternatives[0]
        services.notify(
            user=user,
            kind="security",
            # Whatever happens twice is told twice.
            key=f"security-{uuid.uuid4()}",
            context={"mail_subject": str(message.subject), "mail_text": str(message.body), "mail_html": html},
            address=email or "",
            is_mail_only=True,
        )

    def _render(self, template_prefix: str, email: str, context: dict[str, Any]) -> EmailMultiAlternatives:
        mail_context = {
            "request": self.request,
            "email": email,
            "current_site": get_current_site(self.request),
        } | context
        message = self.render_mail(template_prefix, email, mail_context)
        assert isinstance(message, EmailMultiAlternatives)
        return message


class MFAAdapter(DefaultMFAAdapter):
    """Second factors go by the brand's name; the authenticator apps' secrets and the recovery codes' seeds are encrypted with the
    panel's keys."""

    def get_totp_issuer(self) -> str:
        """What an authenticator app shows above the code; a colon would end it (the Key URI Format's rule)."""
        return current_brand().name.replace(":", " ")

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        """What a browser shows beside a passkey; the id stays the host, or no passkey would be found again."""
        return {**super().get_public_key_credential_rp_entity(), "name": current_brand().name}

    def encrypt(self, text: str) -> str:
        return crypto.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        return crypto.decrypt(encrypted_text)
