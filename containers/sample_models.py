"""What visits measured of relays: one row a relay and minute, kept for two days, and one a relay and hour, kept for 90."""

from typing import Any

from django.db import models

from accounts.models import OwnedQuerySet
from containers.models import Relay
from fleet.sample_models import Figure, add_hourly


class RelaySampleQuerySet(OwnedQuerySet[Any]):
    """Samples of relays: admins see all, a customer those of their own."""

    owner = "relay__rental__user"


class RelaySample(models.Model):
    """A relay's container: `cpu` of one processor since the sample before, as a share of 1; `memory` in bytes; `connections` to its
    ports; `up_rate` and `down_rate` in bytes a second since the sample before: what its devices sent it, what it sent them."""

    pk = models.CompositePrimaryKey("relay", "at")
    # Known by its number alone: writing must wait for nobody who changes the relay.
    relay = models.ForeignKey(Relay, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    at = models.PositiveBigIntegerField(db_index=True)
    cpu = Figure(null=True)
    memory = Figure(null=True)
    connections = Figure(null=True)
    up_rate = Figure(null=True)
    down_rate = Figure(null=True)

    objects = RelaySampleQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.relay_id} {self.at}"


RELAY_FIGURES = tuple(field.name for field in RelaySample._meta.local_fields if isinstance(field, Figure))


class RelaySampleHour(models.Model):
    """An hour of a relay: the smallest (`cpu_min`), mean (`cpu`) and greatest value (`cpu_max`) of each figure, out of `samples`."""

    pk = models.CompositePrimaryKey("relay", "hour")
    relay = models.ForeignKey(Relay, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    hour = models.PositiveIntegerField(db_index=True)
    samples = models.PositiveIntegerField()

    objects = RelaySampleQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.relay_id} {self.hour}"


add_hourly(RelaySampleHour, RELAY_FIGURES)


class ClientLatency(models.Model):
    """How many milliseconds a customer's own device took to a relay, by what it printed itself (`tailscale netcheck`); kept for 400 days."""

    pk = models.CompositePrimaryKey("relay", "at")
    relay = models.ForeignKey(Relay, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False)
    at = models.PositiveBigIntegerField(db_index=True)
    ms = models.FloatField()

    objects = RelaySampleQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.relay_id} {self.at}"
