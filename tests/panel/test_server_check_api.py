"""The API checks servers and says what was found."""

import pytest
from django.utils import timezone

from accounts.models import User
from containers.models import ServerCheck
from fleet.models import Server
from tests.api import Api
from tests.factories import (
    ServerCheckFactory,
    ServerFactory,
)
from tests.panel.test_server_api import Checker as Checker
from tests.panel.test_server_api import admin as admin
from tests.panel.test_server_api import failure as failure

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.mark.django_db(transaction=True)
def test_a_check_is_asked_for_and_waited_for(admin: User) -> None:
    server, api = ServerFactory(healthy=True), Api(admin)
    none = api.get("server/health_check", {"server_id": server.pk})
    assert (none.status_code, none.json()["status"], none.json()["is_over"]) == (200, "none", True)
    first = api.post(f"server/{server.pk}/check")
    assert (first.status_code, first.json()["status"]) == (202, "queued")
    second = api.post(f"server/{server.pk}/check")
    assert second.json()["check_id"] == first.json()["check_id"]
    with Checker(server, "failed"):
        over = api.post(f"server/{server.pk}/check?wait=25")
    assert (over.status_code, over.json()["status"]) == (200, "failed")
    assert ServerCheck.objects.count() == 1
    # A new one is not taken for the old one.
    third = api.post(f"server/{server.pk}/check")
    assert third.status_code == 202
    assert third.json()["check_id"] != first.json()["check_id"]


def test_findings_are_told_with_what_to_do(admin: User) -> None:
    server = ServerFactory(healthy=True)
    finding = {"step": "ports", "is_ok": False, "sentence": "The server cannot be reached.", "values": {}, "remedy": "Done",
               "rules": ["TCP 20000/20999 0.0.0.0/0"], "detail": "refused", "code": ""}  # fmt: skip
    ServerCheckFactory(
        server=server,
        status="failed",
        findings=[finding],
        error_code="unreachable",
        finished_at=timezone.now(),
    )
    said = Api(admin).get("server/health_check", {"server_id": server.pk}).json()
    assert said["reason"] == "The server cannot be reached."
    (told,) = said["findings"]
    assert told == {
        "step": "ports", "is_ok": False, "text": "The server cannot be reached.", "remedy": "Done",
        "rules": ["TCP 20000/20999 0.0.0.0/0"], "detail": "refused",
    }  # fmt: skip


def test_a_lost_check_is_waited_for_further(admin: User) -> None:
    server = ServerFactory(healthy=True)
    ServerCheckFactory(server=server, status="lost")
    assert Api(admin).get("server/health_check", {"server_id": server.pk}).status_code == 202


def test_a_server_without_a_confirmed_key_is_not_checked(admin: User) -> None:
    server = ServerFactory()
    assert failure(Api(admin).post(f"server/{server.pk}/check"))[:2] == (409, "host_key_unconfirmed")
    gone = ServerFactory(status=Server.Status.RETIRED)
    assert failure(Api(admin).post(f"server/{gone.pk}/check"))[:2] == (409, "wrong_state")
    confirming = Api(admin).post(f"server/{gone.pk}/confirm_host_key", {"fingerprint": "x"})
    assert failure(confirming)[:2] == (409, "wrong_state")
