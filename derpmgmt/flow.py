"""Which fact rings for which jobs, which question is answered by whom, what the clock rings for: the whole flow."""

from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings

from accounts import jobs as accounts
from accounts.matters import matters as account_matters
from acl.devices import jobs as device_jobs
from acl.devices import services as devices
from acl.devices.matters import matters as device_matters
from acl.maps import jobs as map_jobs
from acl.maps import services as maps
from containers import jobs as containers
from containers.matters import matters as relay_matters
from containers.services import closing as containers_closing
from containers.services import relays
from derpmgmt.lib.queue import Ring, Tick
from fleet.matters import matters as server_matters
from serials.numbers import jobs as numbers
from serials.numbers.matters import matters as serial_matters
from serials.rentals import jobs as rentals
from serials.rentals.services import automatic_closing as serials_closing

JOBS: dict[str, list[Ring]] = {
    # serials: the end, the schedule or the state of a rental moved
    "rental_changed": [
        Ring(containers.plan_rental),
        Ring(map_jobs.refresh_acl),
        Ring(device_jobs.enforce_rental, "admission"),
    ],
    # accounts: somebody is to be told something
    "notice_made": [Ring(accounts.send_notice, "notices")],
    # accounts: an account is to be closed, and what the rooms above have of it is to go
    "account_closing": [
        Ring(rentals.close_rental),
        Ring(map_jobs.destroy_maps),
        Ring(device_jobs.destroy_devices),
    ],
    # accounts: somebody was banned, or is no longer
    "user_barred": [Ring(containers.plan_customer), Ring(device_jobs.enforce_user, "admission")],
    # containers: a relay's row no longer says what its container is
    "relay_to_apply": [Ring(containers.apply_relay, containers.apply_queue)],
    # containers: which relays a rental has, or what they are, changed
    "rental_relays_changed": [Ring(map_jobs.refresh_acl)],
    # containers: a gate's row no longer says what its container is; who may come in on a server is another
    "gate_to_apply": [Ring(containers.apply_gate, containers.server_queue)],
    "gate_list_outdated": [Ring(containers.push_list, containers.gate_queue)],
    "probe_asked": [Ring(containers.probe_relay, "slow")],
    # acl: a rental has another version of its map, or none any more
    "map_changed": [Ring(map_jobs.publish_live)],
    # acl: somebody may be connected to a rental's relays who has no right to be any more; a page wants to know who is there
    "cut_owed": [Ring(device_jobs.cut_owed, "admission")],
    "presence_asked": [Ring(device_jobs.read_presence, "admission")],
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
    # whether something of a rental's already works, so that its time is not lost
    "has_running_relay": [relays.has_running_relay],
    # who may come in on a server while the panel is away
    "gate_list": [devices.gate_list],
    # to which relays a customer's devices can have a way
    "known_relays": [maps.known_relays],
    # to which relays a rental's map leads
    "mapped_relays": [maps.mapped_relays],
    # what needs a person; of the same level a cause stands before what follows from it
    "matters": [server_matters, relay_matters, device_matters, account_matters, serial_matters],
    # in sentences: what stops when a customer's rights end or rest
    "stops_with": [containers_closing.stops_with],
    # why an account may not be closed; what its owner would lose; what of it is still there
    "closing_reasons": [],
    "closing_losses": [serials_closing.closing_losses],
    "closing_left": [
        serials_closing.closing_left,
        maps.closing_left,
        devices.devices_left,
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
    Tick(map_jobs.sweep_maps, "default", 10),
    # Also with the start of the scheduler, so after every pause of the panel.
    Tick(map_jobs.check_maps, "default", 3600),
    Tick(map_jobs.clean_copies, "default", 3600),
    Tick(map_jobs.record_fetches, "default", 15),
    # An end is to be felt within two seconds, so nothing slow may stand before it in its queue.
    Tick(rentals.sweep_rentals, "admission", 1),
    Tick(device_jobs.sweep_cuts, "admission", 10),
    Tick(device_jobs.sweep_checking, "admission", 5),
    Tick(device_jobs.settle_trials, "admission", 5),
    Tick(device_jobs.tidy_devices, "default", 60),
    Tick(numbers.expire_serials, "default", 60),
    Tick(accounts.sweep_closing, "default", 30),
    Tick(accounts.sweep_notices, "notices", 10),
    Tick(rentals.sweep_reminders, "default", 30),
    Tick(rentals.sweep_closing, "default", 600),
]
