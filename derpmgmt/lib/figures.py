"""Figures of today: each room says its own (the question "figures"), and the start page shows them beside each other."""

from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone


@dataclass(frozen=True)
class Figure:
    """One number, in the language that is active when it is read; `url` is the list that it counts."""

    label: str
    value: str
    url: str


def midnight(now: datetime) -> datetime:
    """When the day of `now` began, in the panel's time zone."""
    return timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
