"""Numbers for monitoring: each room says its own (the question "metrics"), and `derpmgmt.metrics` writes them down for Prometheus."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """Numbers of one kind, by the values of `labels`. Its name, without the prefix, and its unit follow Prometheus' rules
    (https://prometheus.io/docs/practices/naming/); a counter only ever grows. Samples whose number is None are left out: unknown is
    not 0. `text` explains it, in English as all of it."""

    name: str
    text: str
    labels: tuple[str, ...]
    samples: Iterable[tuple[tuple[Any, ...], float | None]]
    is_counter: bool = False


def single(name: str, text: str, value: float | None, *, is_counter: bool = False) -> Metric:
    """One number without labels."""
    return Metric(name, text, (), [((), value)], is_counter)
