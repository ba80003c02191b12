"""Which fact rings for which jobs, which question is answered by whom, what the clock rings for: the whole flow."""

from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings

from acl import jobs as acl
from containers import jobs as containers
from containers.services import relays
from derpmgmt import overview
from derpmgmt.lib.queue import Ring, Tick
from serials import jobs as serials

JOBS: dict[str, list[Ring]] = {
    # serials: the end, the schedule or the state of a rental moved
    "rental_changed": [Ring(containers.plan_rental), Ring(acl.refresh_acl)],
    # containers: a relay's row no longer says what its container is
    "relay_changed": [Ring(containers.apply_relay, containers.apply_queue)],
    # containers: which relays a rental has, or what they are, changed
    "relays_changed": [Ring(acl.refresh_acl)],
    "probe_asked": [Ring(containers.probe_relay, "slow")],
    # fleet
    "server_to_check": [Ring(containers.request_check)],
    "server_usable": [Ring(containers.plan_waiting)],
    "server_moved": [Ring(containers.follow_server)],
    "check_requested": [Ring(containers.check_server, containers.server_queue)],
    "orphans_found": [Ring(containers.remove_orphans, containers.server_queue)],
}

ANSWERS: dict[str, list[Callable[..., Iterable[Any]]]] = {
    "server_relays": [relays.server_relays],
    "admin_overview": [overview.admin_overview],
}

CRON: list[Tick] = [
    Tick(containers.sweep, "default", 5),
    *(Tick(containers.visit_servers, f"visit-{shard}", 15, (shard,)) for shard in range(settings.SHARDS)),
    Tick(acl.sweep_maps, "default", 30),
    Tick(serials.sweep_serials, "default", 600),
]
