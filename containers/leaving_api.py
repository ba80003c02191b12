"""Draining servers by the JSON API."""

from typing import Any

from django.utils.translation import gettext as _
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from containers.services.leaving import Leaving, drain_server, outcome_sentences
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import Input, Line, Output, Pk
from fleet import services
from fleet.api import ServerAnswer, find_server
from fleet.models import Server

server = Room("server")


class DrainReason(Input):
    """Why a server is drained."""

    reason: Line = Field("", description="Operators read it at the server.", examples=["contract ends"])


class RelayLeaving(Output):
    """What becomes of a relay whose server is drained. Neither moving nor staying, it goes: another one stands in its place already."""

    container_id: Pk = Field(examples=[12])
    user_id: Pk | None = Field(description="Whose it is.", examples=[7])
    to_server_id: Pk | None = Field(description="Where another one is made in its place.", examples=[4])
    stays: bool = Field(description="Whether it has nowhere to go; it is tried again each minute.")


class Drained(ServerAnswer):
    """A server that is being drained, and what becomes of its relays."""

    relays: list[RelayLeaving] = Field(
        description="As it was foreseen when draining began; empty where it had begun before."
    )


def _status_of(found: Server) -> Any:
    return Server.objects.values_list("status", flat=True).get(pk=found.pk)


def _describe(leaving: Leaving) -> RelayLeaving:
    return RelayLeaving(
        container_id=leaving.relay.pk,
        user_id=leaving.relay.rental.user_id if leaving.relay.rental else None,
        to_server_id=leaving.to.pk if leaving.to else None,
        stays=leaving.stays,
    )


@server.does("/{server_id}/drain", Drained, scope=Scope.OPERATE)
def server_drain(request: ApiRequest, server_id: Pk, body: DrainReason) -> Drained:
    """Place nothing new on a server and have its relays made on others, for operators; make before break.

    One that is being drained already goes on as it does.
    """
    found = find_server(request, server_id)
    leaving = drain_server(server=found, by=request.user, ip=client_ip(request), reason=body.reason)
    if leaving is None:
        message = _("%(server)s is being drained already.") % {"server": found}
    else:
        begun = _("%(server)s is being drained.") % {"server": found}
        message = " ".join([begun, *outcome_sentences(leaving)])
    return Drained(
        message=message,
        server_id=found.pk,
        status=_status_of(found),
        relays=[_describe(relay) for relay in leaving or []],
    )


@server.does("/{server_id}/end_draining", ServerAnswer, scope=Scope.OPERATE)
def server_end_draining(request: ApiRequest, server_id: Pk) -> ServerAnswer:
    """Take a server that is being drained back into use, for operators; relays that have moved stay where they are."""
    found = find_server(request, server_id)
    services.end_draining(server=found, by=request.user)
    words = _("%(server)s is in use again; relays that have moved stay where they are.")
    return ServerAnswer(message=words % {"server": found}, server_id=found.pk, status=_status_of(found))
