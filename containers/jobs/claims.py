"""What every change of a server has in common: its queue, the claim on the work, the record of its steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from django.conf import settings

from derpmgmt.lib.jobs import Heartbeat, JobRecord, worker_name
from derpmgmt.lib.problems import Problem
from fleet import services as fleet_services


class ClaimLost(Exception):
    """This worker was held for dead and its work given to another: stop at once."""


def server_queue(server_pk: int) -> str:
    """The queue of all changes of a server."""
    return f"apply-{server_pk % settings.SHARDS}"


@contextmanager
def working(server_pk: int, record: JobRecord) -> Iterator[None]:
    """Keep lease and record alive while the work sits in long calls."""
    renew = partial(fleet_services.renew_lease, server_pk=server_pk, holder=worker_name())
    with Heartbeat(record.beat, renew):
        yield


def take_step(record: JobRecord, name: str, text: str = "", *, problem: Problem | None = None) -> None:
    """Write down that the step `name` begins; `text` is what needs no translation. Raises `ClaimLost` when the record is
    another's by now."""
    if not record.write(text, step=name, problem=problem):
        raise ClaimLost
