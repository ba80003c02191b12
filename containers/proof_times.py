"""When a relay is proven without anybody's asking: evenly spread over the interval, sooner while it fails."""

from datetime import datetime, timedelta

from django.conf import settings

# A relay that failed is tested again after this time, then after as long as it has been failing, at most the interval.
SOON = timedelta(seconds=30)
# The golden ratio's part: multiples of it fill an interval evenly, however many there are.
_STRIDE = 0.6180339887498949


def next_proof(relay_pk: int, now: datetime, failing_since: datetime | None) -> datetime:
    """When the relay is due next after a test at `now`; `failing_since` is None when that passed.

    Each relay has a moment of its own in every interval, so that they stay spread whatever is tested at once in between.
    """
    interval = timedelta(minutes=settings.PROOF_MINUTES)
    if failing_since is not None:
        return now + min(max(now - failing_since, SOON), interval)
    seconds = interval.total_seconds()
    # Not right after one that was made for another reason.
    earliest = now.timestamp() + seconds / 2
    own = relay_pk * _STRIDE % 1 * seconds
    return now + timedelta(seconds=seconds / 2 + (own - earliest) % seconds)


def failing_key(relay_pk: int, since: datetime) -> str:
    """What notices about one time without packets of a relay have in common."""
    return f"relay-{relay_pk}-{since:%Y%m%d%H%M%S%f}"
