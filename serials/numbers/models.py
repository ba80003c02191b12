"""Serial numbers and their batches."""

from typing import Self

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import OwnedQuerySet
from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.lines import LineField
from fleet.models import StaffOnlyQuerySet
from serials.rentals.models import Entitlement, Redemption


class SerialBatch(Entitlement):
    """Serial numbers that were made together and give the same; an unpaid batch cannot be redeemed."""

    # A customer's three relays stand on three servers, so a batch is bound to at least as many.
    FEWEST_SERVERS = 3

    name = LineField(_("name"), max_length=80)
    days = models.PositiveIntegerField(
        _("days"),
        validators=[MinValueValidator(1), MaxValueValidator(3660)],
        help_text=_("Days each one gives."),
    )
    count = models.PositiveIntegerField(
        _("count"), validators=[MinValueValidator(1), MaxValueValidator(10000)]
    )
    redeem_by = models.DateField(
        _("redeem by"), null=True, blank=True, db_index=True, help_text=_("Last day; empty = no limit.")
    )
    paid_at = models.DateTimeField(_("paid"), null=True, blank=True)
    created_at = models.DateTimeField(_("made"), default=timezone.now)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("made by"),
    )

    objects = StaffOnlyQuerySet.as_manager()

    class Meta:
        verbose_name = _("batch of serial numbers")
        verbose_name_plural = _("batches of serial numbers")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_paid(self) -> bool:
        """Whether its serial numbers may be redeemed and their maps downloaded."""
        return self.paid_at is not None


class SerialNumberQuerySet(OwnedQuerySet["SerialNumber"]):
    """Serial numbers by state and by who may see them: customers those that they redeemed."""

    owner = "redemption__rental__user"

    def unused(self) -> Self:
        return self.filter(status=SerialNumber.Status.UNUSED)


class SerialNumber(models.Model):
    """One code that can be redeemed once.

    The code is stored twice: as an HMAC (`code_hash`) to find it and encrypted (`code`) to show it to who may; pages show
    `masked`.
    """

    class Status(models.TextChoices):
        UNUSED = "unused", _("unused")
        USED = "used", _("used")
        EXPIRED = "expired", _("expired")
        RECALLED = "recalled", _("recalled")

    batch = models.ForeignKey(SerialBatch, models.PROTECT, related_name="serials", verbose_name=_("batch"))
    code_hash = models.CharField(max_length=64, unique=True, editable=False)
    code = EncryptedTextField(editable=False)
    code_end = models.CharField(_("ends in"), max_length=4, editable=False, db_index=True)
    status = models.CharField(_("state"), max_length=8, choices=Status, default=Status.UNUSED, db_index=True)
    redeemed_at = models.DateTimeField(_("redeemed"), null=True, blank=True, editable=False)
    redemption = models.OneToOneField(
        Redemption,
        models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="serial",
        verbose_name=_("redemption"),
    )

    objects = SerialNumberQuerySet.as_manager()

    class Meta:
        verbose_name = _("serial number")
        verbose_name_plural = _("serial numbers")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["batch", "status"])]

    def __str__(self) -> str:
        return self.masked

    @property
    def masked(self) -> str:
        """The code as pages show it: only its last four characters."""
        return f"••••-{self.code_end}"


def redeemed_serial(redemption: Redemption) -> str:
    """The serial number that was redeemed, masked; "" where time came otherwise. Select `serial` with the redemptions."""
    serial: SerialNumber | None = getattr(redemption, "serial", None)
    return serial.masked if serial else ""
