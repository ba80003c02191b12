"""Maps of a customer's relays, their live URLs, and who took them away."""

from datetime import timedelta

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Case, Q, Value, When
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from containers.models import Relay
from derpmgmt.lib.crypto import EncryptedTextField
from serials.rentals.models import ByRentalQuerySet, Rental

# How long a version of the map is valid.
VALID_FOR = timedelta(days=32)
# A version is followed by the next so long before it lapses.
RENEW_BEFORE = timedelta(days=3)


class MapRegion(models.Model):
    """A DERP region ID (900–999) of a customer: a place of theirs (`slot`), under which relays change.

    `relay` is the one to which the last version led; a successor in the place takes the number over, and so does whatever relay
    comes after one that is gone, also when the customer chose the number themselves. A row without a `slot` is from before that: it
    names a relay that retires beside its successor, and goes with it.
    """

    rental = models.ForeignKey(Rental, models.CASCADE, related_name="map_regions", verbose_name=_("rental"))
    relay = models.OneToOneField(
        Relay, models.SET_NULL, null=True, blank=True, related_name="map_region", verbose_name=_("relay")
    )
    region_id = models.PositiveSmallIntegerField(
        _("region ID"), validators=[MinValueValidator(900), MaxValueValidator(999)]
    )
    slot = models.PositiveSmallIntegerField(_("place"), null=True, blank=True)
    # When the place's relay was last replaced by another, or its region ID by another.
    changed_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ByRentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("region ID")
        verbose_name_plural = _("region IDs")
        ordering = ["region_id"]
        constraints = [
            models.UniqueConstraint(name="region_id_once_a_rental", fields=["rental", "region_id"]),
            models.UniqueConstraint(name="region_place_once_a_rental", fields=["rental", "slot"]),
            models.CheckConstraint(name="region_id_is_the_users", condition=Q(region_id__range=(900, 999))),
        ]

    def __str__(self) -> str:
        return str(self.region_id)


class AclConfig(models.Model):
    """One version of a customer's derpMap. At most one is active a rental (`is_active` is NULL for the others)."""

    rental = models.ForeignKey(Rental, models.PROTECT, related_name="acl_configs", verbose_name=_("rental"))
    version = models.PositiveIntegerField(_("version"))
    derp_map = models.JSONField(_("map"), help_text=_("The DERPMap as Tailscale's JSON."))
    is_active = models.BooleanField(_("active"), null=True, default=True)
    created_at = models.DateTimeField(_("made"), default=timezone.now)
    ends_at = models.DateTimeField(_("valid until"))
    reason = models.CharField(_("reason"), max_length=200)
    # When its customer was told of it (or needed not be), and when the sweep had done all that follows from its lapse.
    told_at = models.DateTimeField(null=True, blank=True, editable=False)
    lapsed_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When whoever had not pasted it was told again, before the relays went that their old version leads to.
    reminded_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ByRentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("map version")
        verbose_name_plural = _("map versions")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(name="acl_version_once", fields=["rental", "version"]),
            models.UniqueConstraint(name="acl_one_active", fields=["rental", "is_active"]),
            models.CheckConstraint(
                name="acl_inactive_is_null", condition=Q(is_active=True) | Q(is_active=None)
            ),
        ]
        indexes = [
            models.Index(fields=["is_active", "told_at"]),
            models.Index(fields=["is_active", "ends_at"]),
            models.Index(fields=["lapsed_at", "ends_at"]),
        ]

    def __str__(self) -> str:
        return f"v{self.version}"


class AclEvent(models.Model):
    """A version that was made or withdrawn, downloaded, fetched or refused: who, from where, when; append-only.

    Fetches by a live URL are the exception: one row a day for each version, address and program, whose `count` and
    `last_at` grow (`fetch_key` finds it). `reason` is kept in English, as it stands in the code; `reason_text` is it in the reader's language.
    """

    class Kind(models.TextChoices):
        MADE = "made", _("made")
        DOWNLOADED = "downloaded", _("downloaded")
        FETCHED = "fetched", _("fetched by the live URL")
        REFUSED = "refused", _("refused")
        WITHDRAWN = "withdrawn", _("withdrawn")

    rental = models.ForeignKey(Rental, models.CASCADE, related_name="acl_events", verbose_name=_("rental"))
    version = models.PositiveIntegerField(_("version"), null=True, blank=True)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind)
    file_format = models.CharField(_("format"), max_length=8, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    at = models.DateTimeField(_("time"), default=timezone.now, db_index=True)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("by"),
        help_text=_("Empty = the system."),
    )
    ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    place = models.CharField(_("place"), max_length=80, blank=True)
    browser = models.CharField(_("browser"), max_length=200, blank=True)
    count = models.PositiveIntegerField(_("times"), default=1)
    last_at = models.DateTimeField(_("last time"), null=True, blank=True)
    fetch_key = models.CharField(max_length=64, null=True, unique=True, editable=False)  # noqa: DJ001 — NULLs never collide

    objects = ByRentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("map event")
        verbose_name_plural = _("map events")
        ordering = ["-pk"]
        indexes = [models.Index(fields=["rental", "kind"])]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {timezone.localtime(self.at):%Y-%m-%d %H:%M}"

    @property
    def reason_text(self) -> str:
        """The reason in the language of the page."""
        return gettext(self.reason) if self.reason else ""


class LiveUrl(models.Model):
    """The secret address under which a customer's current map can be fetched; at most one a rental is not revoked.

    The secret is stored as an HMAC (`secret_hash`) to find it and encrypted (`secret`) to show it to its owner.
    """

    rental = models.ForeignKey(Rental, models.CASCADE, related_name="live_urls", verbose_name=_("rental"))
    secret_hash = models.CharField(max_length=64, unique=True, editable=False)
    secret = EncryptedTextField(blank=True, editable=False)
    created_at = models.DateTimeField(_("made"), default=timezone.now)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    usable = models.GeneratedField(
        expression=Case(When(Q(revoked_at__isnull=True), then=Value(1)), default=None),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
    )
    last_fetched_at = models.DateTimeField(_("last fetched"), null=True, blank=True)
    last_ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    last_browser = models.CharField(_("program"), max_length=200, blank=True)

    objects = ByRentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("live URL")
        verbose_name_plural = _("live URLs")
        ordering = ["-pk"]
        constraints = [models.UniqueConstraint(name="live_url_one_usable", fields=["rental", "usable"])]

    def __str__(self) -> str:
        return f"#{self.pk}"
