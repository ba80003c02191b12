"""Maps of a customer's relays and who took them away; his devices, and who asked to be let in."""

from datetime import datetime, timedelta

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Case, Q, Value, When
from django.utils import timezone
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from containers.models import Relay
from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.lines import LineField
from serials.models import ByRentalQuerySet, Rental

# How long a version of the map is valid.
VALID_FOR = timedelta(days=32)
# A version is followed by the next so long before it lapses.
RENEW_BEFORE = timedelta(days=3)


class MapRegion(models.Model):
    """A DERP region ID (900–999) of a customer: a place of his (`slot`), under which relays change.

    `relay` is the one to which the last version led; a successor in the place takes the number over, and so does whatever relay
    comes after one that is gone, also when the customer chose the number himself. A row without a `slot` is from before that: it
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
    # When whoever had not pasted it was told again, before the relays went that his old version leads to.
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


class DevicePolicy(models.Model):
    """What a customer decided about who may use his relays; without a row the defaults of a new rental hold.

    Until `enrol_until` new devices that knock are approved by themselves. `is_open` lets everybody in. `verify_url` is the
    customer's own admission address (Headscale's `/verify`), asked about devices that the panel does not know.
    """

    # So long after the first activation devices are approved by themselves: long enough to paste the map and to switch Tailscale
    # off and on, and too short for strangers who look for open relays to make much of it.
    ENROL_FOR = timedelta(hours=1)

    rental = models.OneToOneField(
        Rental, models.CASCADE, related_name="device_policy", verbose_name=_("rental")
    )
    enrol_until = models.DateTimeField(_("automatic approval until"), null=True, blank=True)
    is_open = models.BooleanField(_("device checking is off"), default=False, db_index=True)
    verify_url = EncryptedTextField(_("own verify address"), blank=True)
    verify_problem = models.CharField(_("what its last question ran into"), max_length=200, blank=True)
    verify_asked_at = models.DateTimeField(_("last asked"), null=True, blank=True)
    # Since when whoever is connected without a right is to be cut; NULL once all relays have answered that nobody is.
    cut_owed_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When a sweep looks after a cut that is still owed.
    cut_after = models.DateTimeField(null=True, blank=True, editable=False, db_index=True)
    # When the rental lost the rights for which everybody was last to be cut.
    lost_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When the customer was last told that devices wait.
    told_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ByRentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("device policy")
        verbose_name_plural = _("device policies")

    def __str__(self) -> str:
        return str(self.rental)


class Device(models.Model):
    """One of a customer's devices, known by its node key; a device that logs in again has another key.

    Approved ones are let in. A pending one waits for its customer's word, or is on trial until `trial_until` and let in: clients'
    own diagnosis knocks with throw-away keys, so a new key takes no place at first. Once it has stayed for a while (`stayed_at`) it
    has a provisional place, which counts against the device limit, and later it is approved. A key that went meanwhile (`left_at`)
    is remembered for a while, should it come again, and shown to nobody.
    """

    class Status(models.TextChoices):
        PENDING = "pending", pgettext_lazy("device", "waiting")
        APPROVED = "approved", pgettext_lazy("device", "approved")
        REVOKED = "revoked", pgettext_lazy("device", "revoked")

    class Source(models.TextChoices):
        PASTED = "pasted", _("added by hand")
        ENROLLED = "enrolled", _("approved automatically")
        APPROVED = "approved", _("knocked and approved")
        VERIFY_URL = "verify-url", _("known to the own verify address")

    rental = models.ForeignKey(Rental, models.PROTECT, related_name="devices", verbose_name=_("rental"))
    node_key = models.CharField(
        _("node key"), max_length=64, help_text=_("64 hexadecimal digits, without “nodekey:”.")
    )
    name = LineField(_("name"), max_length=63, blank=True)
    status = models.CharField(_("state"), max_length=8, choices=Status, default=Status.PENDING)
    source = models.CharField(_("how it came in"), max_length=10, choices=Source, blank=True)
    trial_until = models.DateTimeField(_("on trial until"), null=True, blank=True, db_index=True)
    stayed_at = models.DateTimeField(_("provisional place since"), null=True, blank=True)
    left_at = models.DateTimeField(_("gone since"), null=True, blank=True)
    # The network from which its trial began: of those that are approved by themselves few may come from one.
    came_from = models.CharField(_("came from"), max_length=43, blank=True)
    knocks = models.PositiveIntegerField(_("times it knocked"), default=0)
    first_seen_at = models.DateTimeField(_("first seen"), null=True, blank=True)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True)
    last_ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    last_place = models.CharField(_("place"), max_length=80, blank=True)
    last_relay = models.ForeignKey(
        Relay, models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("relay")
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    approved_at = models.DateTimeField(_("approved"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True, db_index=True)
    # When the customer was told that it waits.
    told_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ByRentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("device")
        verbose_name_plural = pgettext_lazy("device", "devices")
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(name="device_once_a_rental", fields=["rental", "node_key"])]
        indexes = [
            models.Index(fields=["rental", "status"]),
            models.Index(fields=["status", "last_seen_at"]),
            models.Index(fields=["node_key"]),
        ]

    def __str__(self) -> str:
        return self.name or f"nodekey:{self.node_key[:8]}…"

    def is_on_trial(self, now: datetime) -> bool:
        """Whether it is let in until that is decided."""
        return self.status == self.Status.PENDING and self.trial_until is not None and self.trial_until > now

    def note_seen(self, at: datetime, ip: str | None, relay_pk: int) -> None:
        """It knocked; nothing is saved. The place of another address is not known until the knock is written to the log."""
        if ip != self.last_ip:
            self.last_place = ""
        self.last_seen_at, self.last_ip, self.last_relay_id = at, ip, relay_pk


class Admission(models.Model):
    """A relay asked whether a device may come in: the answer and why; kept 30 days, append-only.

    The same question with the same answer within a moment is one row; `count` says how often it was asked. Where very many knock,
    the row of a minute counts those that have none of their own: it has no node key, and an address only if all came from there.
    """

    class Reason(models.TextChoices):
        APPROVED = "approved", _("approved device")
        ENROLLED = "enrolled", _("approved automatically")
        PROVISIONAL = "provisional", _("new device on trial")
        CROWDED = "crowded", _("too many new devices")
        VERIFY_URL = "verify-url", _("known to the own verify address")
        OPEN = "open", _("device checking is off")
        UNKNOWN = "unknown", _("unknown device")
        REVOKED = "revoked", _("revoked device")
        FULL = "full", _("device limit reached")
        ENDED = "ended", _("no active rental")
        BARRED = "barred", _("account banned or closed")

    # As few indexes as can be: a row is written for each question. A customer's relays are never deleted.
    relay = models.ForeignKey(
        Relay,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="admissions",
        verbose_name=_("relay"),
    )
    rental = models.ForeignKey(
        Rental, models.CASCADE, db_index=False, related_name="admissions", verbose_name=_("rental")
    )
    node_key = models.CharField(_("node key"), max_length=64)
    is_allowed = models.BooleanField(_("allowed"))
    reason = models.CharField(_("reason"), max_length=12, choices=Reason)
    ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    place = models.CharField(_("place"), max_length=80, blank=True)
    map_version = models.PositiveIntegerField(_("map version"), null=True, blank=True)
    count = models.PositiveIntegerField(_("times"), default=1)
    at = models.DateTimeField(_("time"), default=timezone.now, db_index=True)

    objects = ByRentalQuerySet.as_manager()

    class Meta:
        verbose_name = _("admission")
        verbose_name_plural = _("admissions")
        ordering = ["-at", "-pk"]
        indexes = [models.Index(fields=["rental", "at"])]

    def __str__(self) -> str:
        return f"{self.get_reason_display()} {timezone.localtime(self.at):%Y-%m-%d %H:%M:%S}"
