"""What happens to a map in the tests of its versions."""

from datetime import datetime

import time_machine

from acl import derpmap, jobs, services
from acl.models import AclConfig
from containers.models import Relay
from serials.models import Rental


def active(rental: Rental) -> AclConfig:
    config = services.active_config(rental)
    assert config
    return config


def take(rental: Rental) -> None:
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.HUJSON, by=rental.user)


def sweep_at(moment: datetime, times: int = 1) -> None:
    with time_machine.travel(moment, tick=False):
        for _ in range(times):
            jobs.sweep_maps()


def move(relay: Relay) -> None:
    Relay.objects.filter(pk=relay.pk).update(certificate_sha256=f"{relay.pk:064x}")
