"""Tokens for the JSON API, answers that are kept for requests that come again, and codes for new accounts."""

from datetime import timedelta
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.lines import LineField

# So long an answer is kept for a request that comes again.
KEPT = timedelta(hours=24)


class Scope(models.TextChoices):
    """What a token may be used for; never for more than its owner may do themselves."""

    READ = "read", _("read")
    ACT = "act", _("act for oneself")
    SELL = "sell", _("sell")
    OPERATE = "operate", _("operate")


class ApiTokenQuerySet(models.QuerySet["ApiToken"]):
    """Tokens by who may see them and whether they count."""

    def visible_to(self, user: Any) -> Self:
        """Everybody only their own."""
        return self.filter(user=user) if user.is_authenticated else self.none()

    def valid(self, now: Any) -> Self:
        """Those that open the API now, as far as their owner may come in."""
        return self.filter(models.Q(expires_at=None) | models.Q(expires_at__gt=now), revoked_at=None)


class ApiToken(models.Model):
    """A bearer token of one person; only its keyed hash is kept, so it is shown once.

    `scopes` are values of `Scope`, separated by spaces. `is_sign_in` says that it came from signing in by the API: such a one lives short and
    stands in no list that its owner keeps.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens", verbose_name=_("user")
    )
    name = LineField(_("name"), max_length=60)
    scopes = models.CharField(_("may"), max_length=40, editable=False)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    # The end of the token, by which its owner tells it from others.
    hint = models.CharField(_("ends in"), max_length=4, editable=False)
    is_sign_in = models.BooleanField(default=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    expires_at = models.DateTimeField(_("valid until"), null=True, blank=True, db_index=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True, db_index=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    last_used_ip = models.GenericIPAddressField(_("from"), null=True, blank=True)

    objects = ApiTokenQuerySet.as_manager()

    class Meta:
        app_label = "accounts"
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.name} …{self.hint}"

    @property
    def state(self) -> str:
        """valid, revoked or ended."""
        if self.revoked_at:
            return "revoked"
        return "ended" if self.expires_at and self.expires_at <= timezone.now() else "valid"

    @property
    def scope_names(self) -> list[str]:
        """What people call what it may be used for."""
        return [str(Scope(scope).label) for scope in self.scopes.split()]


class KeptAnswer(models.Model):
    """The answer to a request with an `Idempotency-Key`, for the time that the same request may come again (`KEPT`).

    It is written in one transaction with what the request does, so there is either both or neither. `key_hash` is of the key and who sent
    it (`user`, None for who is not signed in), `request_hash` tells whether it is the same request; the body may hold what is shown once.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="+")
    key_hash = models.CharField(max_length=64, unique=True, editable=False)
    request_hash = models.CharField(max_length=64, editable=False)
    status = models.PositiveSmallIntegerField(default=0)
    body = EncryptedTextField(blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        app_label = "accounts"

    def __str__(self) -> str:
        return f"#{self.pk}"


class SignUpCode(models.Model):
    """A code that was mailed to an address of which an account is to be made by the API: the keyed hashes of both, and what is left of it."""

    email_hash = models.CharField(max_length=64, unique=True, editable=False)
    code_hash = models.CharField(max_length=64, editable=False)
    ends_at = models.DateTimeField(db_index=True)
    tries = models.PositiveSmallIntegerField(default=0)

    class Meta:
        app_label = "accounts"

    def __str__(self) -> str:
        return f"#{self.pk}"
