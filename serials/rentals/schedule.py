"""The rules of a rental's time: which stretch comes after which. Pure functions on tuples of spans.

A rental's schedule is a tuple of spans in order of time, without overlap; a gap is where the rental had ended or was paused.
`at` is always the moment up to which its time is used: now, or while it is paused the moment when the pause began. What lies
before `at` is never changed, what lies behind it follows one after another without a gap. So at any moment
granted - refunded = used + left, and the end is that of the last span.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

# The `redemption` of a span whose Redemption row does not exist yet.
NEW = 0


class NoEntitlement(Exception):
    """There has never been a span whose entitlement could go on."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch from `starts_at` up to but not including `ends_at`; `redemption` is the pk of what granted it."""

    starts_at: datetime
    ends_at: datetime
    entitlement: Hashable
    redemption: int

    @property
    def length(self) -> timedelta:
        return self.ends_at - self.starts_at


Spans = tuple[Span, ...]


def split(spans: Spans, at: datetime) -> tuple[Spans, Spans]:
    """What lies before `at` and what lies behind it; the span that covers `at` is cut in two."""
    before = tuple(replace(span, ends_at=min(span.ends_at, at)) for span in spans if span.starts_at < at)
    behind = tuple(replace(span, starts_at=max(span.starts_at, at)) for span in spans if span.ends_at > at)
    return before, behind


def total(spans: Spans) -> timedelta:
    """The time that the spans hold together."""
    return sum((span.length for span in spans), timedelta())


def ruling(spans: Spans, at: datetime) -> Hashable:
    """The entitlement that rules at `at`: of the span that covers it, after the end that of the last; None without any."""
    behind = split(spans, at)[1] or spans[-1:]
    return behind[0].entitlement if behind else None


def _moved(spans: Spans, by: timedelta) -> Spans:
    return tuple(replace(span, starts_at=span.starts_at + by, ends_at=span.ends_at + by) for span in spans)


def add(
    spans: Spans, *, at: datetime, length: timedelta, entitlement: Hashable, redemption: int = NEW
) -> Spans:
    """New time at the end: it starts at the later of `at` and the end."""
    start = max(at, spans[-1].ends_at) if spans else at
    return (*spans, Span(start, start + length, entitlement, redemption))


def start_now(
    spans: Spans, *, at: datetime, length: timedelta, entitlement: Hashable, redemption: int = NEW
) -> Spans:
    """New time that starts at `at`; what is left of the old follows it."""
    before, behind = split(spans, at)
    start = behind[0].starts_at if behind else at
    return (*before, Span(start, start + length, entitlement, redemption), *_moved(behind, length))


def renew_until(spans: Spans, *, at: datetime, until: datetime, redemption: int = NEW) -> Spans:
    """Time with the last entitlement up to `until`; never shortens, so an earlier `until` changes nothing.

    Raises `NoEntitlement` when there are no spans.
    """
    if not spans:
        raise NoEntitlement
    length = until - max(at, spans[-1].ends_at)
    if length <= timedelta():
        return spans
    return add(spans, at=at, length=length, entitlement=spans[-1].entitlement, redemption=redemption)


def resume(spans: Spans, *, paused_at: datetime, now: datetime) -> Spans:
    """End a pause: the span that covers `paused_at` is cut there; its rest and all later ones move by the pause's length."""
    before, behind = split(spans, paused_at)
    return (*before, *_moved(behind, max(now - paused_at, timedelta())))


def refund(spans: Spans, *, at: datetime, starts_at: datetime) -> Spans:
    """Take away what is left of the span that starts at `starts_at`; later ones move up. What is used stays."""
    kept: list[Span] = []
    gone = timedelta()
    for span in spans:
        if span.starts_at == starts_at and span.ends_at > at:
            gone = span.ends_at - max(span.starts_at, at)
            if span.starts_at < at:
                kept.append(replace(span, ends_at=at))
        else:
            kept.extend(_moved((span,), -gone))
    return tuple(kept)


def credit(spans: Spans, *, at: datetime, length: timedelta, redemption: int = NEW) -> Spans:
    """Give time back: the span that covers `at` grows by `length`, later ones move. Counts as granted.

    When the rental has ended meanwhile, the time is added with the last entitlement. Raises `NoEntitlement` when there are no
    spans.
    """
    if not spans:
        raise NoEntitlement
    before = tuple(span for span in spans if span.ends_at <= at)
    if len(before) == len(spans):
        return add(spans, at=at, length=length, entitlement=spans[-1].entitlement, redemption=redemption)
    covering, *later = spans[len(before) :]
    return (*before, replace(covering, ends_at=covering.ends_at + length), *_moved(tuple(later), length))
