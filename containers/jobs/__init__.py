"""What RQ runs for relays: take a primary key, claim, do, record. Every job may die at any line and run twice.

Jobs are found here by name, also those that a queue has kept from before they had modules of their own.
"""

from containers.jobs.claims import server_queue
from containers.jobs.deployments import apply_queue, apply_relay, probe_relay
from containers.jobs.gates import apply_gate, gate_queue, push_list
from containers.jobs.plans import follow_server, plan_customer, plan_rental, plan_waiting
from containers.jobs.proofs import prove_relays, prove_server, prune_health, sweep_outages
from containers.jobs.rotations import check_certificates, retire_relay, rotate_certificates, sweep_retiring
from containers.jobs.server_checks import check_server, request_check
from containers.jobs.sweeping import sweep
from containers.jobs.visits import remove_orphans, visit_servers
