"""What crosses rooms: which fact of one rings for which jobs of others, and which question is answered by whom.

What stays inside a room, and what the clock does for it, each room says itself (`jobs.RINGS`, `jobs.TICKS`).
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts import figures as account_figures
from accounts import jobs as accounts
from accounts.alerts.feeding import alert_matters
from accounts.alerts.services import Reading
from accounts.matters import matters as account_matters
from accounts.readings import read_notices
from accounts.search import search as account_search
from acl.devices import admin_parts as device_parts
from acl.devices import figures as device_figures
from acl.devices import jobs as device_jobs
from acl.devices import services as devices
from acl.devices.matters import matters as device_matters
from acl.devices.search import search as device_search
from acl.devices.strangers import read_strangers
from acl.maps import admin_parts as map_parts
from acl.maps import jobs as map_jobs
from acl.maps import services as maps
from containers import admin_parts as relay_parts
from containers import figures as relay_figures
from containers import habit_parts, traffic_parts
from containers import jobs as containers
from containers.allowance_words import limits_now
from containers.matters import matters as relay_matters
from containers.readings import read_latency
from containers.services import closing as containers_closing
from containers.services import habits, relays
from derpmgmt import watch
from derpmgmt.history import admin_parts as history_parts
from derpmgmt.lib import queue
from derpmgmt.lib.matters import about
from derpmgmt.lib.queue import Job, Tick
from fleet import figures as server_figures
from fleet.matters import matters as server_matters
from fleet.measures import alert_servers, read_servers
from fleet.search import search as server_search
from serials.numbers import admin_parts as number_parts
from serials.numbers import figures as number_figures
from serials.numbers import jobs as numbers
from serials.numbers.matters import matters as serial_matters
from serials.numbers.search import search as serial_search
from serials.rentals import admin_parts as rental_parts
from serials.rentals import figures as rental_figures
from serials.rentals import jobs as rentals
from serials.rentals.services import automatic_closing as serials_closing

CROSSING: dict[str, list[Job]] = {
    # serials: the end, the schedule or the state of a rental moved
    "rental_changed": [
        containers.plan_rental,
        containers.judge_rental,
        map_jobs.refresh_acl,
        device_jobs.enforce_rental,
    ],
    # serials, containers: what was said about the limits of a customer or a relay, or added to a month
    "limits_changed": [containers.judge_rental],
    # accounts: an account is to be closed, and what the rooms above have of it is to go
    "account_closing": [rentals.close_rental, map_jobs.destroy_maps, device_jobs.destroy_devices],
    # accounts: somebody was banned, or is no longer
    "user_barred": [containers.plan_customer, device_jobs.enforce_user],
    # containers: which relays a rental has, or what they are, changed
    "rental_relays_changed": [map_jobs.refresh_acl],
    # fleet
    "server_to_check": [containers.request_check],
    "server_usable": [containers.plan_waiting],
    "server_silent": [containers.prove_server],
    "server_answers": [containers.prove_server],
    "server_moved": [containers.follow_server],
    # what may flow on a server in a month is another
    "server_limits_changed": [containers.judge_server],
}

JOBS = CROSSING | accounts.RINGS | containers.RINGS | map_jobs.RINGS | device_jobs.RINGS

READINGS: list[Callable[[datetime], Iterable[Reading]]] = [
    read_notices,
    read_servers,
    read_latency,
    watch.read_queues,
    watch.read_sweeps,
    watch.read_disk,
]

HABITS: list[Callable[[datetime], Iterable[Reading]]] = [
    habits.read_customers,
    habits.read_servers,
    read_strangers,
]

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
    "matters": [
        about("servers", _("servers"), server_matters),
        about("relays", _("relays"), relay_matters),
        about("devices", pgettext_lazy("device", "devices"), device_matters),
        about("accounts", _("accounts and notices"), account_matters),
        about("serials", _("serial numbers"), serial_matters),
        about("alerts", _("measurements"), alert_matters),
    ],
    # for which servers rules of alerts can be changed
    "alert_servers": [alert_servers],
    # what is read as numbers, for alerts; each room's by itself (`accounts.alerts.feeding`)
    "readings": [lambda now: [partial(read, now) for read in READINGS]],
    # what is compared with weeks, for alerts; likewise, and less often
    "habits": [lambda now: [partial(read, now) for read in HABITS]],
    # what one search of the admin finds, kind by kind
    "search": [account_search, server_search, serial_search, device_search],
    # what is counted, on the start page: today's figures in their order there; the fleet by region; how many relays servers hold
    "figures": [account_figures.figures, rental_figures.figures, relay_figures.figures],
    "regions": [server_figures.regions],
    "relays_by_server": [relay_figures.relays_by_server],
    # numbers for monitoring
    "metrics": [
        account_figures.metrics,
        rental_figures.metrics,
        number_figures.metrics,
        server_figures.metrics,
        relay_figures.metrics,
        device_figures.metrics,
    ],
    # what the rooms above have about a row, on its page in the admin: ways to it, and parts of that page
    "row_links": [relay_parts.links],
    "row_parts": [habit_parts.parts, device_parts.parts],
    # a customer's, or a server's, page in the admin: its tabs in their order, what its head says, and acts of the rooms above
    "row_tabs": [
        number_parts.tabs,
        relay_parts.tabs,
        traffic_parts.tabs,
        device_parts.tabs,
        map_parts.tabs,
        history_parts.tabs,
    ],
    "row_says": [rental_parts.says, relay_parts.says, traffic_parts.says, device_parts.says],
    "row_buttons": [rental_parts.buttons],
    "check_pages": [relay_parts.check_pages],
    # in a sentence: what limits a customer now, each with where it was said
    "limits_now": [limits_now],
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
    tick for room in (containers, map_jobs, device_jobs, rentals, numbers, accounts) for tick in room.TICKS
]

queue.register(JOBS, ANSWERS)
