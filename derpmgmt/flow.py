"""Which fact rings for which jobs, which question is answered by whom, what the clock rings for: the whole flow."""

from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings

from accounts import jobs as accounts
from acl import jobs as acl
from acl import services as acl_services
from containers import jobs as containers
from containers.services import closing as containers_closing
from containers.services import relays
from derpmgmt import overview
from derpmgmt.lib.queue import Ring, Tick
from serials import jobs as serials
from serials.services import closing as serials_closing

JOBS: dict[str, list[Ring]] = {
    # serials: the end, the schedule or the state of a rental moved
    "rental_changed": [
        Ring(containers.plan_rental),
        Ring(acl.refresh_acl),
        Ring(acl.enforce_rental, "admission"),
    ],
    # accounts: somebody is to be told something
    "notice_made": [Ring(accounts.send_notice, "notices")],
    # accounts: an account is to be closed, and what the rooms above have of it is to go
    "account_closing": [
        Ring(serials.close_rental),
        Ring(acl.destroy_maps),
        Ring(acl.destroy_devices),
    ],
    # accounts: somebody was banned, or is no longer
    "user_barred": [Ring(containers.plan_customer), Ring(acl.enforce_user, "admission")],
    # containers: a relay's row no longer says what its container is
    "relay_changed": [Ring(containers.apply_relay, containers.apply_queue)],
    # containers: which relays a rental has, or what they are, changed
    "relays_changed": [Ring(acl.refresh_acl)],
    # containers: a gate's row no longer says what its container is; who may come in on a server is another
    "gate_changed": [Ring(containers.apply_gate, containers.server_queue)],
    "list_changed": [Ring(containers.push_list, containers.gate_queue)],
    "probe_asked": [Ring(containers.probe_relay, "slow")],
    # acl: a rental has another version of its map, or none any more
    "map_changed": [Ring(acl.publish_live)],
    # acl: somebody may be connected to a rental's relays who has no right to be any more; a page wants to know who is there
    "cut_owed": [Ring(acl.cut_owed, "admission")],
    "presence_asked": [Ring(acl.read_presence, "admission")],
    # fleet
    "server_to_check": [Ring(containers.request_check)],
    "server_usable": [Ring(containers.plan_waiting)],
    "server_silent": [Ring(containers.prove_server)],
    "server_answers": [Ring(containers.prove_server)],
    "server_moved": [Ring(containers.follow_server)],
    "check_requested": [Ring(containers.check_server, containers.server_queue)],
    "orphans_found": [Ring(containers.remove_orphans, containers.server_queue)],
}

ANSWERS: dict[str, list[Callable[..., Iterable[Any]]]] = {
    "server_relays": [relays.server_relays],
    # who may come in on a server while the panel is away
    "gate_list": [acl_services.gate_list],
    # to which relays a customer's devices can have a way
    "known_relays": [acl_services.known_relays],
    # to which relays a rental's map leads
    "mapped_relays": [acl_services.mapped_relays],
    "admin_overview": [overview.admin_overview],
    # why an account may not be closed; what its owner would lose; what of it is still there
    "closing_reasons": [],
    "closing_losses": [serials_closing.closing_losses],
    "closing_left": [
        serials_closing.closing_left,
        acl_services.closing_left,
        acl_services.devices_left,
        containers_closing.closing_left,
    ],
}

CRON: list[Tick] = [
    Tick(containers.sweep, "default", 5),
    *(Tick(containers.visit_servers, f"visit-{shard}", 15, (shard,)) for shard in range(settings.SHARDS)),
    Tick(containers.prove_relays, "proofs", 5),
    Tick(containers.sweep_outages, "default", 10),
    Tick(containers.prune_health, "proofs", 3600),
    Tick(containers.check_certificates, "default", 60),
    Tick(containers.rotate_certificates, "default", 60),
    Tick(containers.sweep_retiring, "default", 60),
    Tick(acl.sweep_maps, "default", 10),
    # Also with the start of the scheduler, so after every pause of the panel.
    Tick(acl.check_maps, "default", 3600),
    Tick(acl.clean_copies, "default", 3600),
    Tick(acl.record_fetches, "default", 15),
    # An end is to be felt within two seconds, so nothing slow may stand before it in its queue.
    Tick(serials.sweep_rentals, "admission", 1),
    Tick(acl.sweep_cuts, "admission", 10),
    Tick(acl.sweep_checking, "admission", 5),
    Tick(acl.settle_trials, "admission", 5),
    Tick(acl.tidy_devices, "default", 60),
    Tick(serials.expire_serials, "default", 60),
    Tick(accounts.sweep_closing, "default", 30),
    Tick(accounts.sweep_notices, "notices", 10),
    Tick(serials.sweep_reminders, "default", 30),
    Tick(serials.sweep_closing, "default", 600),
]
