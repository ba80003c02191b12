"""Proving every relay on a schedule, on a queue of its own: nobody waits for these tests."""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial

from django.utils import timezone

from containers.derp.probe import probe_relay
from containers.services import proving, relays
from derpmgmt.lib import queue
from derpmgmt.lib.sweeps import attempt

# So many relays are tested at once: enough for 10,000 in a quarter of an hour over slow lines, little for one machine.
THREADS = 16
# One round takes so many at a time, and no new ones after this time: the next round goes on.
AT_ONCE = 64
ROUND_SECONDS = 20.0


@queue.on_queue("proofs")
def prove_relays() -> None:
    """One round over the relays whose scheduled test is due."""
    deadline = time.monotonic() + ROUND_SECONDS
    with ThreadPoolExecutor(THREADS, thread_name_prefix="proof") as pool:
        while time.monotonic() < deadline:
            due = proving.claim_due(timezone.now(), AT_ONCE)
            if not due:
                return
            targets = proving.proof_targets(due, timezone.now())
            # Threads speak to relays only; what they found is written here, by one connection to the database.
            running = {
                pool.submit(probe_relay, target, measures_quality=True): relay
                for relay, target in zip(due, targets, strict=True)
            }
            for future in as_completed(running):
                relay = running[future]
                record = partial(relays.record_probe, relay=relay, result=future.result())
                attempt(f"the test of relay {relay.pk}", record)


def prove_server(server_pk: int) -> None:
    """A server stopped answering, or answers again: look whether its relays carry packets."""
    proving.prove_soon(server_pk=server_pk, now=timezone.now())


def sweep_outages() -> None:
    """Tell customers what of theirs carries no packets."""
    proving.sweep_failing(timezone.now())


@queue.on_queue("proofs")
def prune_health() -> None:
    """Forget old results."""
    proving.prune_health(timezone.now())
