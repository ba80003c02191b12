"""What flowed through relays: the counters' last readings, and the sums by hour, day and month.

The sums know relays, rentals and servers by their numbers and no constraint of the database: writing them must wait for nobody who
changes one of those, every 15 s and for hundreds of servers. Rows that have sums are never deleted. All bytes are those of the relay's side: *up* is what devices sent to
it, *down* what it sent to them.
"""

from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import OwnedQuerySet
from containers.models import Relay
from fleet.models import Server, StaffOnlyQuerySet
from serials.rentals.models import Rental


class TrafficCounter(models.Model):
    """The last reading of one epoch of a relay's container (`containers.metering`) that was counted.

    `uptime` is its host's at that time, in seconds.
    """

    relay = models.ForeignKey(Relay, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    epoch = models.CharField(max_length=64)
    received_bytes = models.BigIntegerField()
    sent_bytes = models.BigIntegerField()
    uptime = models.FloatField()
    read_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(name="traffic_epoch_once", fields=["relay", "epoch"])]

    def __str__(self) -> str:
        return f"{self.relay_id} {self.epoch[:12]}"


class TrafficQuerySet(OwnedQuerySet[Any]):
    """Sums of relays: admins see all, a customer those of their own."""

    owner = "relay__rental__user"


class TrafficHour(models.Model):
    """What flowed through a relay in an hour, which is given in hours since 1970; kept for 90 days."""

    pk = models.CompositePrimaryKey("relay", "hour")
    relay = models.ForeignKey(Relay, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    hour = models.PositiveIntegerField(db_index=True)
    up_bytes = models.BigIntegerField(default=0)
    down_bytes = models.BigIntegerField(default=0)

    objects = TrafficQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.relay_id} {self.hour}"


class TrafficDay(models.Model):
    """What flowed through a relay on a day of the panel's time zone; kept for good."""

    pk = models.CompositePrimaryKey("relay", "day")
    relay = models.ForeignKey(Relay, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    day = models.DateField(db_index=True)
    up_bytes = models.BigIntegerField(default=0)
    down_bytes = models.BigIntegerField(default=0)

    objects = TrafficQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.relay_id} {self.day}"


class TrafficMonthQuerySet(OwnedQuerySet["TrafficMonth"]):
    """Months of relays: admins see all, a customer those of their own."""

    owner = "rental__user"


class TrafficMonth(models.Model):
    """What flowed through a relay in a month of its customer's (`containers.services.traffic.month_of`), and how fast at the last reading, in bytes a second."""

    pk = models.CompositePrimaryKey("relay", "begins_on")
    relay = models.ForeignKey(Relay, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    begins_on = models.DateField(_("month from"))
    rental = models.ForeignKey(
        Rental, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    up_bytes = models.BigIntegerField(_("up"), default=0)
    down_bytes = models.BigIntegerField(_("down"), default=0)
    up_rate = models.FloatField(default=0)
    down_rate = models.FloatField(default=0)
    read_at = models.DateTimeField()

    objects = TrafficMonthQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["rental", "begins_on"])]

    def __str__(self) -> str:
        return f"{self.relay_id} {self.begins_on}"


class TrafficServerMonth(models.Model):
    """What flowed through a server's relays in a month of the server's (`Server.traffic_reset_day`), and how fast at the last reading."""

    pk = models.CompositePrimaryKey("server", "begins_on")
    server = models.ForeignKey(
        Server, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    begins_on = models.DateField(_("month from"))
    up_bytes = models.BigIntegerField(_("up"), default=0)
    down_bytes = models.BigIntegerField(_("down"), default=0)
    up_rate = models.FloatField(default=0)
    down_rate = models.FloatField(default=0)
    read_at = models.DateTimeField()

    objects = StaffOnlyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.server_id} {self.begins_on}"


class TrafficError(models.Model):
    """A relay whose counters said what cannot be (`containers.metering.Doubt`), and how often; a matter for a day after the last time."""

    relay = models.OneToOneField(
        Relay, models.DO_NOTHING, primary_key=True, related_name="+", db_constraint=False
    )
    doubt = models.CharField(max_length=12)
    number = models.PositiveIntegerField(default=0)
    since = models.DateTimeField()
    last_at = models.DateTimeField(db_index=True)
    received_bytes = models.CharField(max_length=24)
    sent_bytes = models.CharField(max_length=24)

    def __str__(self) -> str:
        return f"{self.relay_id} {self.doubt}"
