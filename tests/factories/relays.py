"""Relays, and what became of them and their servers."""

from datetime import timedelta
from typing import Any

import factory
from django.utils import timezone

from containers.models import Deployment, Gate, Relay, RelayHealth, ServerCheck
from derpmgmt.lib.crypto import keyed_hash
from tests.factories.base import RowFactory
from tests.factories.rentals import RentalFactory
from tests.factories.servers import ServerFactory


class RelayFactory(RowFactory[Relay]):
    """A relay that has carried a packet and runs. `whole`: with the test that it passed and the deployment that made it."""

    class Meta:
        model = Relay

    class Params:
        planned = factory.Trait(status=Relay.Status.PLANNED, proven_at=None)

    rental = factory.SubFactory(RentalFactory)
    slot = 1
    server = factory.SubFactory(ServerFactory)
    status = Relay.Status.RUNNING
    # Above those that a plan gives out first.
    derp_port = factory.Sequence(lambda n: 20500 + n)
    stun_port = factory.Sequence(lambda n: 30000 + n)
    certificate = "-"
    certificate_key = "-"
    certificate_sha256 = factory.Sequence(lambda n: f"c{n:063x}")
    certificate_address = factory.SelfAttribute("server.address")
    certificate_ends_at = factory.LazyFunction(lambda: timezone.now() + timedelta(days=365))
    private_key = "-"
    public_key = factory.Sequence(lambda n: f"b{n:063x}")
    mesh_key = "-"
    proven_at = factory.LazyFunction(timezone.now)

    @factory.post_generation
    def whole(relay: Relay, create: bool, is_asked: bool | None, **_fields: Any) -> None:
        if is_asked:
            relay.last_health = RelayHealthFactory(relay=relay)
            relay.save(update_fields=["last_health"])
            DeploymentFactory(relay=relay, done=True)


class RelayHealthFactory(RowFactory[RelayHealth]):
    """A test that was passed."""

    class Meta:
        model = RelayHealth

    is_ok = True
    handshake_ms, packet_ms, stun_ms = 3.1, 1.2, 0.8


class DeploymentFactory(RowFactory[Deployment]):
    """One that waits for a worker, or is `done`."""

    class Meta:
        model = Deployment

    class Params:
        done = factory.Trait(
            status=Deployment.Status.DONE,
            started_at=factory.LazyFunction(timezone.now),
            finished_at=factory.SelfAttribute("started_at"),
        )


class ServerCheckFactory(RowFactory[ServerCheck]):
    """One that waits for a worker, or went well and is `done`."""

    class Meta:
        model = ServerCheck

    class Params:
        done = factory.Trait(status=ServerCheck.Status.DONE)


class GateFactory(RowFactory[Gate]):
    """One that is to be made, or one that is `running`."""

    class Meta:
        model = Gate

    class Params:
        running = factory.Trait(status=Gate.Status.RUNNING, running_since=factory.LazyFunction(timezone.now))

    server = factory.SubFactory(ServerFactory)
    secret = factory.Sequence(lambda n: f"secret {n}")
    secret_hash = factory.LazyAttribute(lambda gate: keyed_hash("gate", gate.secret))
