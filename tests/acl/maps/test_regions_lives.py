"""Random lives of a rental: whatever happens in which order, no version and no live URL lets a region go whose relay answers."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from acl.maps import derpmap, jobs, services
from acl.maps.models import AclConfig, LiveUrl, MapRegion
from containers.models import Relay
from containers.services import relay_certificates, relay_requests, rotation
from containers.services import relays as relay_services
from containers.services.planning import plan_relays
from derpmgmt.lib.jobs import Problem
from fleet.models import Server
from serials.rentals.models import Rental, RentalSpan
from tests.factories import RentalFactory, ServerFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

Ways = dict[int, tuple[str, int, int, str]]


class Life:
    """One rental on five servers, what runs there, and what its map and its live URL said so far."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.servers = ServerFactory.create_batch(5)
        Server.objects.update(
            status="healthy", host_key="x", capacity=20,
            tcp_port_first=20000, tcp_port_last=20999, udp_port_first=30000, udp_port_last=30999,
        )  # fmt: skip
        self.rental = RentalFactory(days=3000)
        self.url = services.create_live_url(rental=self.rental, by=self.rental.user)
        # Pins of relays whose containers run, and when the others' were last seen running.
        self.running: dict[str, int] = {}
        self.ran_until: dict[str, datetime] = {}
        self.said: Ways = {}
        self.last_version: Ways = {}
        self.version = 0
        self.numbers: dict[int, int] = {}
        self.replaced_at: dict[int, datetime] = {}

    # What happens

    def work(self, number: int) -> None:
        """One worker does what the rows want of one relay."""
        waiting = list(self.rental.relays.filter(status__in=["planned", "failed", "removing"]).order_by("pk"))
        if not waiting:
            return
        relay = waiting[number % len(waiting)]
        if relay.status == "removing":
            self._stop(relay)
            relay_services.record_released(relay=relay, now=timezone.now())
            return
        for pin in [pin for pin, pk in self.running.items() if pk == relay.pk]:
            self._forget(pin)
        self.running[relay.certificate_sha256] = relay.pk
        relay_services.record_running(relay=relay, image="x", now=timezone.now())

    def work_all(self, _: int) -> None:
        while self.rental.relays.filter(status__in=["planned", "failed", "removing"]).exists():
            self.work(0)

    def die_after_removing(self, number: int) -> None:
        """A worker is killed between the removal of a container and the row that says so."""
        removing = list(self.rental.relays.filter(status="removing").order_by("pk"))
        if removing:
            self._stop(removing[number % len(removing)])

    def _stop(self, relay: Relay) -> None:
        for pin in [pin for pin, pk in self.running.items() if pk == relay.pk]:
            self._forget(pin)

    def _forget(self, pin: str) -> None:
        del self.running[pin]
        self.ran_until[pin] = timezone.now()

    def fail(self, number: int) -> None:
        """A relay cannot be made or repaired; one that ran may go on, unseen."""
        relays = list(self.rental.relays.live().exclude(status="removing").order_by("pk"))
        if relays:
            code = ("unreachable", "port_taken")[number % 2]
            relay = relays[number % len(relays)]
            relay_services.record_failure(relay=relay, problem=Problem(code, ""), now=timezone.now())

    def crash(self, number: int) -> None:
        """A container ends; the next visit has it looked after."""
        if self.running:
            pin = sorted(self.running)[number % len(self.running)]
            relay_requests.request_repair(relay_pk=self.running[pin])
            self._forget(pin)

    def rotate(self, number: int) -> None:
        relay = self.rental.relays.filter(slot=1 + number % 3).first()
        if relay:
            rotation.rotate_relay(relay=relay, now=timezone.now())

    def retire(self, number: int) -> None:
        """What the sweep would do, with nobody connected; the customer has taken the map or not."""
        if number % 2 and services.active_config(self.rental):
            services.hand_out_map(
                rental=self.rental, file_format=derpmap.MapFormat.JSON, by=self.rental.user
            ) if _is_young(self.rental) else None
        now = timezone.now()
        for relay in self.rental.relays.retiring():
            if rotation.may_go(relay, now) or rotation.may_go_unused(relay, now):
                rotation.retire_relay(relay=relay)

    def bind(self, number: int) -> None:
        """The time is bound to other servers, or to none."""
        servers = [] if number % 6 == 5 else [self.servers[(number + step) % 5] for step in (0, 1, 2)]
        RentalSpan.objects.get(rental=self.rental).servers.set(servers)
        self.plan(0)

    def move(self, number: int) -> None:
        """A server gets another address; nothing answers at the old one any more."""
        server = self.servers[number % 5]
        server.address = f"198.51.100.{number % 200 + 1}"
        Server.objects.filter(address=server.address).exists() or server.save(update_fields=["address"])
        for relay in server.relays.live():
            self._stop(relay)
        relay_certificates.follow_server(server_pk=server.pk, now=timezone.now())

    def end(self, _: int) -> None:
        Rental.objects.filter(pk=self.rental.pk).update(runs_until=timezone.now())

    def renew(self, _: int) -> None:
        Rental.objects.filter(pk=self.rental.pk).update(runs_until=timezone.now() + timedelta(days=3000))

    def pause(self, _: int) -> None:
        Rental.objects.filter(pk=self.rental.pk, paused_at=None).update(paused_at=timezone.now())

    def resume(self, _: int) -> None:
        Rental.objects.filter(pk=self.rental.pk).update(paused_at=None)

    def come_back_soon(self, number: int) -> None:
        """An end that somebody takes back before all containers are gone, or soon after."""
        self.pause(0)
        self.plan(0)
        if number % 2:
            self.refresh(0)
        for _ in range(number % 4):
            self.work(number)
        self.resume(0)
        self.plan(0)
        self.work(0)
        if number % 3:
            self.wait(2)
            self.refresh(0)

    def succeed(self, number: int) -> None:
        """One or more relays get successors that come up."""
        for place in range(1 + number % 3):
            self.rotate(number + place)
        self.work_all(0)

    def plan(self, _: int) -> None:
        plan_relays(rental_pk=self.rental.pk, now=timezone.now())

    def refresh(self, _: int) -> None:
        jobs.refresh_acl(self.rental.pk)

    def sweep(self, _: int) -> None:
        jobs.sweep_maps()

    def force(self, _: int) -> None:
        services.refresh_map(rental=self.rental, reason=services.RENEWED, is_forced=True)

    def wait(self, number: int) -> None:
        self.clock.shift(
            timedelta(seconds=(1, 5, 11, 11, 13, 13, 30, 61, 61, 61, 4000, 8 * 86400)[number % 12])
        )

    # What must hold

    def check(self) -> None:
        now = timezone.now()
        for slot, region_id in MapRegion.objects.filter(rental=self.rental).values_list("slot", "region_id"):
            assert self.numbers.setdefault(slot, region_id) == region_id
        config = AclConfig.objects.filter(rental=self.rental).order_by("-version").first()
        if config and config.version != self.version:
            new = _ways(config.derp_map)
            if config.version == self.version + 1:
                self._compare(self.last_version, new, now)
                self._count_changes(self.last_version, new, now)
            self.last_version, self.version = new, config.version
        copy = services.read_copy(self.url.secret_hash)
        assert copy
        if copy.lapses_at is not None and copy.lapses_at <= now.timestamp():
            return  # a failure: readers keep what they have
        is_over = copy.counts_until is not None and copy.counts_until <= now.timestamp()
        says = {} if is_over else _ways(json.loads(copy.body))
        self._compare(self.said, says, now)
        self.said = says

    def _compare(self, old: Ways, new: Ways, now: datetime) -> None:
        for region_id in old.keys() - new.keys():
            pin = old[region_id][-1]
            assert pin not in self.running, f"region {region_id} is let go while its relay answers"
            closed_at = self.ran_until.get(pin)
            assert closed_at is None or now >= closed_at + timedelta(seconds=12), (
                f"region {region_id} goes too early"
            )

    def _count_changes(self, old: Ways, new: Ways, now: datetime) -> None:
        changed = [
            region_id
            for region_id in old.keys() & new.keys()
            if old[region_id] != new[region_id]
            and old[region_id][-1] in self.running
            and _is_running(old[region_id][-1])
        ]
        assert len(changed) <= 1, "two places changed at once"
        for region_id in changed:
            others = [at for number, at in self.replaced_at.items() if number != region_id]
            assert not others or now >= max(others) + timedelta(minutes=1), "two places changed in a minute"
            self.replaced_at[region_id] = now


def _is_young(rental: Rental) -> bool:
    config = services.active_config(rental)
    return config is not None and timezone.now() < config.ends_at and rental.is_entitled(timezone.now())


def _is_running(pin: str) -> bool:
    return Relay.objects.filter(certificate_sha256=pin, status="running").exists()


def _ways(derp_map: dict[str, Any]) -> Ways:
    return {way[0]: way[1:] for way in derpmap.ways(derp_map)}


ACTS = st.sampled_from(
    [
        "work", "work_all", "die_after_removing", "fail", "crash", "rotate", "succeed", "retire", "bind", "move",
        "end", "renew", "pause", "resume", "come_back_soon", "plan", "refresh", "refresh", "sweep", "force", "wait", "wait",
    ]
)  # fmt: skip


# A life that fails is shown as it is: making it shorter takes longer than a test may.
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(acts=st.lists(st.tuples(ACTS, st.integers(0, 23)), min_size=10, max_size=40))
def test_no_life_lets_a_region_go_whose_relay_answers(acts: list[tuple[str, int]]) -> None:
    with transaction.atomic(), time_machine.travel(timezone.now(), tick=False) as clock:
        life = Life(clock)
        for act in ("plan", "work_all", "refresh"):
            getattr(life, act)(0)
            life.check()
        assert len(life.said) == 3
        for act, number in acts:
            getattr(life, act)(number)
            life.check()
        transaction.set_rollback(True)
    assert not LiveUrl.objects.exists()
