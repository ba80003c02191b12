"""Sweeps that go on when one piece of their work fails."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


def attempt(subject: str, work: Callable[[], object]) -> bool:
    """Do `work`; what it raises is logged as being about `subject`, and does not hold up what comes after it. False then.

    Where rows wait in a line `accounts.sweeps.sweep` also puts those off whose work raises.
    """
    try:
        work()
    except Exception:
        log.exception("%s could not be dealt with", subject)
        return False
    return True
