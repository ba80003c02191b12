"""A customer's devices, what they decided about them, and who asked to be let in."""

from datetime import datetime, timedelta

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from containers.models import Relay
from derpmgmt.lib.crypto import EncryptedTextField
from derpmgmt.lib.lines import LineField
from derpmgmt.lib.retries import Retry
from serials.rentals.models import ByRentalQuerySet, Rental

# When a cut that could not be done is tried again.
CUT = Retry(timedelta(seconds=30), timedelta(minutes=10), "cut_failures", "cut_after")


class DevicePolicy(models.Model):
    """What a customer decided about who may use their relays; without a row the defaults of a new rental hold.

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
    # How often it could not be done, and when a sweep looks after a cut that is still owed (`CUT`).
    cut_failures = models.PositiveIntegerField(default=0, editable=False)
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
        APPROVED = "approved", _("approved on request")
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
    knocks = models.PositiveIntegerField(_("times it tried to connect"), default=0)
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

    # What its row says of it at a moment, for queries and in Python alike.

    @classmethod
    def on_trial(cls, now: datetime) -> Q:
        """Those that are let in until it is decided about them."""
        return Q(status=cls.Status.PENDING, trial_until__gt=now)

    @classmethod
    def provisional(cls, now: datetime) -> Q:
        """Those on trial that have a place: there for so long that no diagnosis is."""
        return Q(cls.on_trial(now), stayed_at__isnull=False)

    @classmethod
    def placed(cls, now: datetime) -> Q:
        """Those that have a place: approved, or provisionally."""
        return Q(status=cls.Status.APPROVED) | cls.provisional(now)

    @classmethod
    def admitted(cls, now: datetime) -> Q:
        """Those that are let in: approved, or on trial."""
        return Q(status=cls.Status.APPROVED) | cls.on_trial(now)

    @classmethod
    def waiting(cls, now: datetime) -> Q:
        """Those that wait for their customer's word: not on trial, nor gone while they were."""
        is_over = Q(trial_until__isnull=True) | Q(trial_until__lte=now)
        return Q(is_over, status=cls.Status.PENDING, left_at__isnull=True)

    @classmethod
    def came_in(cls) -> Q:
        """Those that knocked and were approved at some time, whatever became of them."""
        return Q(approved_at__isnull=False, last_seen_at__isnull=False)

    def is_on_trial(self, now: datetime) -> bool:
        """As `on_trial`."""
        return self.status == self.Status.PENDING and self.trial_until is not None and self.trial_until > now

    def is_placed(self, now: datetime) -> bool:
        """As `placed`."""
        is_provisional = self.is_on_trial(now) and self.stayed_at is not None
        return self.status == self.Status.APPROVED or is_provisional

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
        USED_UP = "used_up", _("traffic of the month used up")

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
