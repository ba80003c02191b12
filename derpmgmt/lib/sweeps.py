"""Sweeps that go on when one piece of their work fails."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


def attempt(subject: str, work: Callable[[], object]) -> None:
    """Do `work`; what it raises is logged as being about `subject`, and does not hold up what comes after it."""
    try:
        work()
    except Exception:
        log.exception("%s could not be dealt with", subject)
