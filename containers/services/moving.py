"""What operators decide about where a customer's relays stand: one onto a certain server, one given up. Make before break, both."""

from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import log_operation
from containers.decisions import Action, BringBack, Create, GiveUp, Obstacle, decide_move, decide_release
from containers.models import Relay
from containers.services.ground import Ground, read_state
from containers.services.planning import create_planned, write_planned
from containers.services.relays import give_up
from derpmgmt.lib.refusals import Refusal
from fleet.models import Server
from serials.rentals.models import Rental

_SENTENCES = {
    Obstacle.NO_RIGHTS: _("This rental is not active, so it has no relays."),
    Obstacle.GONE: _("This relay is on its way out already."),
    Obstacle.HAS_SUCCESSOR: _("Another relay is being made in its place already."),
    Obstacle.NOT_USABLE: _(
        "No relay can be made on %(server)s now: it is not healthy, or did not answer lately."
    ),
    Obstacle.NOT_BOUGHT: _("What this customer bought does not allow %(server)s."),
    Obstacle.STANDS_THERE: _(
        "A relay of this customer stands on %(server)s already, or is being made there."
    ),
    Obstacle.FULL: _(
        "There is no room on %(server)s: it holds as many relays as it may, or all its ports are taken."
    ),
    Obstacle.NO_ROOM: _("No server has room for another relay in its place, so this one stays."),
}


class MoveRefused(Refusal):
    """A relay stays where it is; the code is an `Obstacle`'s, or a port's."""


def _refuse(obstacle: Obstacle, server: Server | None = None) -> MoveRefused:
    values: dict[str, Any] = {"server": server} if server else {}
    return MoveRefused(_SENTENCES[obstacle], code=obstacle.value, **values)


def allocate_relay(
    *,
    rental: Rental,
    server: Server,
    port: int | None = None,
    relay: Relay | None = None,
    by: User | None,
    ip: str | None = None,
) -> Relay:
    """Put one of a customer's three relays onto `server`: into an empty place, else as the successor of `relay`, or of the one that can
    best be spared (`decisions.decide_move`). The old one runs on until the new one is proven. `port` is the new one's DERP port.

    Raises `MoveRefused`. Announces `relay_to_apply`.
    """

    def work() -> Relay:
        now = timezone.now()
        row = Rental.objects.select_for_update().get(pk=rental.pk)
        state, ground = read_state(row, now)
        found = decide_move(state, server.pk, relay.pk if relay else None)
        if isinstance(found, Obstacle):
            raise _refuse(found, server)
        made = _write(row, found, ground, now, port=port)
        assert made is not None
        log_operation(
            by=by, action="relay.allocated", target=made, subject=row.user, ip=ip, server=server.name,
            replaces=next((action.replaces for action in found if isinstance(action, Create)), None),
        )  # fmt: skip
        return made

    return write_planned(work)


def release_relay(*, relay: Relay, by: User | None, ip: str | None = None) -> Relay | None:
    """Give a relay up: another is made, elsewhere where there is an elsewhere, and takes its place once it is proven; then it goes.

    Gives the other one; None for a relay that only came up to take another's place: that other one stays. Raises `MoveRefused`.
    Announces `relay_to_apply`.
    """

    if relay.rental is None:
        raise _refuse(Obstacle.GONE)
    rental = relay.rental

    def work() -> Relay | None:
        now = timezone.now()
        row = Rental.objects.select_for_update().get(pk=rental.pk)
        state, ground = read_state(row, now)
        found = decide_release(state, relay.pk)
        if isinstance(found, Obstacle):
            raise _refuse(found)
        made = _write(row, found, ground, now)
        log_operation(by=by, action="relay.given_up", target=relay, subject=row.user, ip=ip)
        return made

    return write_planned(work)


def _write(
    rental: Rental, actions: tuple[Action, ...], ground: Ground, now: datetime, *, port: int | None = None
) -> Relay | None:
    """Write down what was decided; the relay that is made. Raises `MoveRefused` for a port that cannot be had."""
    made = None
    for action in actions:
        match action:
            case GiveUp():
                give_up(ground.relays[action.relay])
            case Create():
                if port is not None:
                    _check_port(ground, action.server, port)
                    ground.ports[action.server] = (port, ground.ports[action.server][1])
                made = create_planned(rental, action, ground, now)
            case BringBack():
                raise AssertionError("nothing comes back by a move")
    return made


def _check_port(ground: Ground, server_pk: int, port: int) -> None:
    server = ground.servers[server_pk]
    if not server.tcp_port_first <= port <= server.tcp_port_last:
        raise MoveRefused(
            _("The TCP ports of %(server)s are %(first)s to %(last)s."),
            code="port_outside",
            field="port",
            server=server,
            first=server.tcp_port_first,
            last=server.tcp_port_last,
        )
    if port in ground.taken[server_pk]:
        raise MoveRefused(
            _("TCP port %(port)s of %(server)s is taken."),
            code="port_taken",
            field="port",
            server=server,
            port=port,
        )
