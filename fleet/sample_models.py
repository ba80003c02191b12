"""What visits measured: one wide row a server and visit, kept for two days, and one a server and hour, kept for 400.

Times are whole numbers, seconds or hours since 1970: they compare alike in every database, whatever it knows of time zones. Every figure may
be unknown, which is NULL and never 0.
"""

from collections.abc import Iterable

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from fleet.models import Server, StaffOnlyQuerySet


class Figure(models.FloatField):
    """A measured number. About six digits, which every use of it leaves, in four bytes where the database has such."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        return "float" if connection.vendor == "mysql" else super().db_type(connection)


def add_hourly(model: type[models.Model], names: Iterable[str]) -> None:
    """Give the table of hours the smallest, mean and greatest value of each figure: `NAME_min`, `NAME` and `NAME_max`."""
    for name in names:
        for ending in ("_min", "", "_max"):
            model.add_to_class(f"{name}{ending}", Figure(null=True))


class LoadSample(models.Model):
    """A server at the moment of a visit.

    `load` is the kernel's of one minute for each processor; `cpu` the share of the processors' time that was used since the visit before;
    `memory`, `swap`, `disk`, `inodes` (of Docker's folder), `root` and `root_inodes` (of `/`) the shares in use, all from 0 to 1;
    `receive_rate` and `send_rate` bytes a second on its public interface since the visit before; `connect_ms` how long SSH took where the
    visit had to connect, `answer_ms` the whole answer of its shell, `engine_ms` that of its Docker Engine; `clock_ms` by how much its clock is
    ahead of ours; `containers` how many run.
    """

    pk = models.CompositePrimaryKey("server", "at")
    # Known by its number alone: writing must wait for nobody who changes the server.
    server = models.ForeignKey(
        Server, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    at = models.PositiveBigIntegerField(db_index=True)
    load = Figure(null=True)
    cpu = Figure(null=True)
    memory = Figure(null=True)
    swap = Figure(null=True)
    disk = Figure(null=True)
    inodes = Figure(null=True)
    root = Figure(null=True)
    root_inodes = Figure(null=True)
    receive_rate = Figure(null=True)
    send_rate = Figure(null=True)
    connect_ms = Figure(null=True)
    answer_ms = Figure(null=True)
    engine_ms = Figure(null=True)
    clock_ms = Figure(null=True)
    containers = Figure(null=True)

    objects = StaffOnlyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.server_id} {self.at}"


LOAD_FIGURES = tuple(field.name for field in LoadSample._meta.local_fields if isinstance(field, Figure))


class LoadHour(models.Model):
    """An hour of a server: the smallest (`cpu_min`), mean (`cpu`) and greatest value (`cpu_max`) of each figure, out of `samples`."""

    pk = models.CompositePrimaryKey("server", "hour")
    server = models.ForeignKey(
        Server, models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    hour = models.PositiveIntegerField(db_index=True)
    samples = models.PositiveIntegerField()

    objects = StaffOnlyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.server_id} {self.hour}"


add_hourly(LoadHour, LOAD_FIGURES)


class HourDue(models.Model):
    """An hour of which there are samples that no sum was made of yet; `series` says of what (`fleet.samples.Series.name`)."""

    pk = models.CompositePrimaryKey("series", "hour")
    series = models.CharField(max_length=12)
    hour = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.series} {self.hour}"
