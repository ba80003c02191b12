"""What the clock does with samples."""

import time

from containers.services import samples


def sum_up_samples() -> None:
    """Sum up the hours that are over, as far as that is owed."""
    samples.sum_up(int(time.time()))


def prune_samples() -> None:
    """Forget samples, and hours, that are too old."""
    samples.prune(int(time.time()))
