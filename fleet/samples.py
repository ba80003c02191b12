"""Samples: written by a round of visits at once, summed up by the hour, forgotten when they are old, read for charts.

With its samples a round writes in one transaction which hours have some that are not summed up. Summing an hour up takes that away and writes
the sums, in one transaction too. So whatever dies, is done twice or comes late, by a clock that was set back, the hour is owed until its
sums are of all its samples; nobody has to look through the samples for what is missing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.db.models import Avg, Count, F, Max, Min

from fleet.facts import HostFacts, used_share
from fleet.readings import Rates
from fleet.sample_models import LOAD_FIGURES, HourDue, LoadHour, LoadSample

HOUR = 3600
KEEP_SAMPLES = timedelta(hours=48)
# An hour is summed up when it is over for so many seconds: rounds that began in it have written theirs.
SETTLED_AFTER = 120


@dataclass(frozen=True)
class Series:
    """Two tables of one kind of thing: its samples, and its hours, which are kept for `keep_hours`. `key` names what is sampled."""

    name: str
    sample: type[models.Model]
    hour: type[models.Model]
    key: str
    figures: Sequence[str]
    keep_hours: timedelta

    @property
    def _samples(self) -> models.QuerySet[Any]:
        return self.sample._default_manager.order_by()

    @property
    def _hours(self) -> models.QuerySet[Any]:
        return self.hour._default_manager.order_by()

    def record(self, samples: Collection[Any]) -> None:
        """Write a round's samples: two statements, however many they are. One of the same second as one that is there is left out."""
        if not samples:
            return
        hours = sorted({sample.at // HOUR for sample in samples})
        with transaction.atomic():
            self.sample._default_manager.bulk_create(samples, ignore_conflicts=True)
            # After them: who sums up meanwhile has either seen them, or takes its word back before this one is written.
            HourDue.objects.bulk_create(
                [HourDue(series=self.name, hour=hour) for hour in hours], ignore_conflicts=True
            )

    def sum_up(self, now: int) -> int:
        """Sum up every hour that is over and owed; how many."""
        over = (now - SETTLED_AFTER) // HOUR
        owed = HourDue.objects.filter(series=self.name, hour__lt=over).order_by("hour")
        return sum(self._sum_up_hour(hour) for hour in owed.values_list("hour", flat=True))

    def _sum_up_hour(self, hour: int) -> bool:
        with transaction.atomic():
            # Whoever takes it away has the hour; another waits here, and finds nothing.
            if not HourDue.objects.filter(series=self.name, hour=hour).delete()[0]:
                return False
            sums: dict[str, Any] = {"number": Count("at")}
            for name in self.figures:
                sums |= {f"{name}__min": Min(name), f"{name}__mean": Avg(name), f"{name}__max": Max(name)}
            begin = hour * HOUR
            found = self._samples.filter(at__gte=begin, at__lt=begin + HOUR).values(self.key).annotate(**sums)
            known = dict(self._hours.filter(hour=hour).values_list(self.key, "samples"))
            # Those of long ago are gone; what comes late must not make sums of itself alone out of sums of all.
            rows = [row for row in found if row["number"] >= known.get(row[self.key], 0)]
            self._hours.filter(hour=hour, **{f"{self.key}__in": [row[self.key] for row in rows]}).delete()
            self.hour._default_manager.bulk_create([self._hour_of(hour, row) for row in rows])
        return True

    def _hour_of(self, hour: int, row: dict[str, Any]) -> models.Model:
        figures = {
            f"{name}{ending}": row[f"{name}__{part}"]
            for name in self.figures
            for ending, part in (("_min", "min"), ("", "mean"), ("_max", "max"))
        }
        return self.hour(
            **{f"{self.key}_id": row[self.key], "hour": hour, "samples": row["number"]}, **figures
        )

    def prune(self, now: int) -> int:
        """Forget what is too old, in one statement a table; how many rows. Call it after `sum_up`."""
        oldest = now - int(KEEP_SAMPLES.total_seconds())
        oldest_hour = (now - int(self.keep_hours.total_seconds())) // HOUR
        gone = self._samples.filter(at__lt=oldest)._raw_delete("default")
        return int(gone + self._hours.filter(hour__lt=oldest_hour)._raw_delete("default"))

    def rows(self, pk: int, moments: range, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """One thing's figures for a chart: for each of `moments` that has any its time in seconds, then the `columns`, by one query.

        A figure's name is the mean of the time until the next moment; with `_min` or `_max` it is the smallest or greatest value in it. Steps
        of an hour or more are made of hours, shorter ones of samples.
        """
        return [row[1:] for row in self.rows_of([pk], moments, columns)]

    def rows_of(self, pks: Collection[int], moments: range, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """The same of several things: before its time the primary key of each."""
        is_hourly = moments.step % HOUR == 0
        unit, name = (HOUR, "hour") if is_hourly else (1, "at")
        begin, end, step = moments.start // unit, moments.stop // unit, moments.step // unit
        source = self._hours if is_hourly else self._samples
        within = source.filter(**{f"{self.key}__in": pks, f"{name}__gte": begin, f"{name}__lte": end})
        values = {f"value{place}": _aggregate(column, is_hourly) for place, column in enumerate(columns)}
        # Moments are multiples of the step from the first one on.
        within = within.annotate(moment=F(name) - (F(name) - begin) % step)
        grouped = within.values(self.key, "moment").annotate(**values).order_by("moment")
        found = grouped.values_list(self.key, "moment", *values)
        return [(pk, moment * unit, *figures) for pk, moment, *figures in found]


def _aggregate(column: str, is_hourly: bool) -> models.Aggregate:
    for ending, function in (("_min", Min), ("_max", Max)):
        if column.endswith(ending):
            return function(column if is_hourly else column.removesuffix(ending))
    return Avg(column)


LOAD = Series("load", LoadSample, LoadHour, "server", LOAD_FIGURES, timedelta(days=400))


def load_sample(
    *,
    server_pk: int,
    at: int,
    facts: HostFacts,
    rates: Rates,
    connect_seconds: float | None,
    engine_seconds: float | None,
) -> LoadSample:
    """The row of a visit, at a moment in seconds since 1970. `engine_seconds`: how long the Engine took to answer, None when it did not."""
    root = facts.root
    return LoadSample(
        server_id=server_pk,
        at=at,
        load=facts.load1 / max(facts.cores, 1),
        cpu=rates.cpu_share,
        memory=used_share(facts.memory_total_bytes, facts.memory_available_bytes),
        swap=used_share(facts.swap_total_bytes, facts.swap_free_bytes),
        disk=facts.disk.used_share,
        inodes=facts.disk.used_inodes_share,
        root=root.used_share if root else None,
        root_inodes=root.used_inodes_share if root else None,
        receive_rate=rates.receive_rate,
        send_rate=rates.send_rate,
        connect_ms=_milliseconds(connect_seconds),
        answer_ms=_milliseconds(facts.answer_seconds),
        engine_ms=_milliseconds(engine_seconds),
        clock_ms=_milliseconds(facts.clock_offset),
        containers=len(facts.containers),
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
