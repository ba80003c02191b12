"""What RQ runs for relays: take a primary key, claim, do, record. Every job may die at any line and run twice.

Jobs are found here by name, also those that a queue has kept from before they had modules of their own.
"""

from django.conf import settings

from containers.jobs.allowances import judge_rental, judge_rentals, judge_server, judge_servers
from containers.jobs.claims import server_queue
from containers.jobs.deployments import apply_queue, apply_relay, probe_relay
from containers.jobs.gates import apply_gate, gate_queue, push_list
from containers.jobs.plans import follow_server, plan_customer, plan_rental, plan_waiting
from containers.jobs.proofs import prove_relays, prove_server, prune_health, sweep_outages
from containers.jobs.rates import push_rate
from containers.jobs.rotations import (
    check_certificates,
    drain_servers,
    retire_relay,
    rotate_certificates,
    sweep_retiring,
)
from containers.jobs.samples import prune_samples, sum_up_samples
from containers.jobs.server_checks import check_server, request_check
from containers.jobs.sweeping import sweep
from containers.jobs.traffic import prune_traffic
from containers.jobs.visits import remove_orphans, visit_servers
from derpmgmt.lib.queue import Job, every

# What stays in this room.
RINGS: dict[str, list[Job]] = {
    # a relay's row no longer says what its container is
    "relay_to_apply": [apply_relay],
    # a gate's row no longer says what its container is; who may come in on a server is another
    "gate_to_apply": [apply_gate],
    "gate_list_outdated": [push_list],
    # each device of a relay may send more, or less, than its host knows
    "relay_rate_changed": [push_rate],
    "probe_asked": [probe_relay],
    "check_requested": [check_server],
    "orphans_found": [remove_orphans],
}
TICKS = [
    every(5, sweep),
    every(10, judge_rentals),
    every(60, judge_servers),
    *(every(15, visit_servers, shard) for shard in range(settings.SHARDS)),
    every(5, prove_relays),
    every(10, sweep_outages),
    every(3600, prune_health),
    every(300, sum_up_samples),
    every(3600, prune_samples),
    every(3600, prune_traffic),
    every(60, check_certificates),
    every(60, rotate_certificates),
    every(60, sweep_retiring),
    every(60, drain_servers),
]
