"""Bringing relays how much each device may send: live connections stay."""

import logging
import time
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from containers.deploy import put_files
from containers.jobs.gates import gate_queue
from containers.models import RATE_RETRY, Relay
from containers.services import rates
from containers.services.relay_requests import request_repair
from containers.spec import FILES_DIR, RATE_APPLIED, rate_files, rate_line, relay_name
from derpmgmt.lib import queue
from fleet.contact import contact
from fleet.engine import Engine, engine_errors
from fleet.engine_errors import EngineError
from fleet.models import CONTACT
from fleet.ssh import RemoteError, TimedOut, Unreachable

log = logging.getLogger(__name__)

# A rate is on its way for at most this long to a server that does not answer; derper takes a moment to read the file.
PUSH_SECONDS = 5.0
_APPLIES_SECONDS, _PAUSE_SECONDS = 3.0, 0.05
_LOG_LINES = 100


class RateNotApplied(Exception):
    """derper did not say that it applies the rate."""


def rate_queue(relay_pk: int) -> str:
    """The queue of what is brought to the server of a relay without waiting for other work on it."""
    return gate_queue(Relay.objects.filter(pk=relay_pk).values_list("server_id", flat=True).first() or 0)


@queue.on_queue(rate_queue)
def push_rate(relay_pk: int) -> None:
    """Bring a relay its rate as it is now, and have derper read it. One whose container takes none is made anew for that.

    Takes no lease: two at once bring what the row says, and only what it says then counts as brought.
    """
    relay = (
        Relay.objects.select_related("server__credential").defer(*Relay.SECRETS).filter(pk=relay_pk).first()
    )
    now = timezone.now()
    if relay is None or relay.status != Relay.Status.RUNNING or relay.rate_owed_at is None:
        return  # it is made with its rate
    if CONTACT.rests(relay.server, now) or RATE_RETRY.rests(relay, now):
        return  # the sweep rings again
    if not relay.takes_rate:
        if relay.rate is None:
            rates.record_rate(relay=relay)
        else:
            request_repair(relay_pk=relay.pk)
        return
    try:
        with contact(relay.server, ssh_seconds=PUSH_SECONDS, engine_seconds=PUSH_SECONDS) as reached:
            _deliver(reached.engine, relay)
    except (TimedOut, Unreachable) as error:
        log.warning("rate of relay %s: %s", relay.pk, error.code)  # rested as a server that does not answer
        return
    except RemoteError as error:
        log.warning("rate of relay %s: %s %s", relay.pk, error.code, error.detail)
        if isinstance(error, EngineError) and error.code in {"not_found", "conflict"}:
            request_repair(relay_pk=relay.pk)  # it does not stand, or does not run
        rates.record_rate_failure(relay=relay, now=timezone.now())
        return
    except RateNotApplied:
        log.warning("rate of relay %s was not applied", relay.pk)
        rates.record_rate_failure(relay=relay, now=timezone.now())
        return
    rates.record_rate(relay=relay)


def ring_rates(now: datetime) -> None:
    """The part of the sweep that finds rates which hosts have not got."""
    for relay in rates.due_rates(now):
        queue.enqueue(push_rate, relay.pk, queue=gate_queue(relay.server_id), is_again=True)


def _deliver(engine: Engine, relay: Relay) -> None:
    """Write the file and have derper read it. Raises RemoteError, RateNotApplied."""
    name = relay_name(settings.PANEL_ID, relay.pk)
    put_files(engine, name, FILES_DIR, rate_files(relay.rate))
    with engine_errors():
        engine.kill(name, signal="SIGHUP")
    until = time.monotonic() + _APPLIES_SECONDS
    while not _is_applied(engine, name, relay.rate):
        if time.monotonic() > until:
            raise RateNotApplied
        time.sleep(_PAUSE_SECONDS)


def _is_applied(engine: Engine, name: str, rate: int | None) -> bool:
    """Whether that is the last rate of which derper said that it applies it."""
    with engine_errors():
        lines = [line for line in engine.logs(name, tail=_LOG_LINES).splitlines() if RATE_APPLIED in line]
    return bool(lines) and rate_line(rate) in lines[-1]
