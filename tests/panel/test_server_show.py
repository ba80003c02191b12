"""What `server_show` says of servers that are gone, and of those that do not do their work."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone, translation

from accounts.models import User
from derpmgmt.lib.commands import describe_error
from derpmgmt.lib.moments import moment
from fleet.matters import matters
from fleet.models import Server
from fleet.services import clear_fault, record_contact, record_fault, retire_server
from tests.factories import ServerFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def shown(name: str) -> Any:
    return json.loads(run("server_show", name, "--json"))


def refused(*arguments: str) -> dict[str, Any]:
    with pytest.raises(CommandError) as error:
        run(*arguments)
    return describe_error(error.value)


def test_a_server_that_was_removed_is_found_by_the_name_it_had() -> None:
    gone = ServerFactory(healthy=True, name="sh-1")
    retire_server(server=gone, by=None)
    row = shown("sh-1")
    assert (row["id"], row["status"]) == (gone.pk, "retired")
    # Who has the name now comes first; two that had it are told apart by what they are called now.
    again = ServerFactory(healthy=True, name="sh-1")
    assert shown("sh-1")["id"] == again.pk
    retire_server(server=again, by=None)
    several = refused("server_show", "sh-1")
    assert several["code"] == "several_servers"
    for server in (gone, again):
        assert any(shown(name)["id"] == server.pk for name in several["details"]["names"])
    # What was removed can only be looked at.
    assert refused("server_edit", "sh-1", "--capacity", "5")["code"] == "no_server"


def test_an_unhealthy_server_says_since_when() -> None:
    server = ServerFactory(healthy=True, name="sh-1")
    assert shown("sh-1")["unhealthy_since"] is None
    for _ in range(2):
        record_fault(server_pk=server.pk, code="list_not_taken", sentence="Its gate does not take the list.")
    server.refresh_from_db()
    first = server.fault_since
    assert first
    Server.objects.filter(pk=server.pk).update(fault_since=first - timedelta(hours=5))
    record_fault(server_pk=server.pk, code="list_not_taken", sentence="Its gate does not take the list.")
    begun = first - timedelta(hours=5)  # JSON has milliseconds
    told = datetime.fromisoformat(shown("sh-1")["unhealthy_since"])
    assert abs(told - begun) < timedelta(milliseconds=1)
    assert "Unhealthy since" in run("server_show", "sh-1")
    page = world.enter(User.Role.ADMIN, has_factor=True).get(
        f"/admin/fleet/server/{server.pk}/change/?tab=checks"
    )
    assert page.content.decode().count(moment(begun)) >= 2
    assert [matter.since for matter in matters(timezone.now())] == [begun]
    clear_fault(server_pk=server.pk, code="list_not_taken")
    record_contact(server_pk=server.pk)
    assert shown("sh-1")["unhealthy_since"] is None
