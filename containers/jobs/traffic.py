"""Reading counters outside of visits, and keeping the books of traffic small."""

import logging

from django.conf import settings
from django.utils import timezone

from containers import deploy
from containers.services import traffic
from fleet import facts
from fleet.contact import Contact
from fleet.models import Server
from fleet.ssh import RemoteError, TimedOut, Unreachable

log = logging.getLogger(__name__)


def read_counters(reached: Contact, server: Server) -> None:
    """Count what flowed on a server until now, before something there is stopped on purpose.

    A server that cannot tell does not hold that up. Raises TimedOut and Unreachable.
    """
    try:
        read = facts.read_facts(reached.connection, server.docker_socket, server.engine_root)
        found = deploy.read_ours(reached.engine, settings.PANEL_ID)
    except (TimedOut, Unreachable):
        raise
    except RemoteError as error:
        log.warning("counters of %s: %s %s", server.name, error.code, error.detail)
        return
    traffic.record_visit(server_pk=server.pk, read=read, found=found)


def prune_traffic() -> None:
    """Forget hours that only days and months are still asked for."""
    traffic.prune_traffic(timezone.now())
