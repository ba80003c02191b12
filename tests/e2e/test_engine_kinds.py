"""Which hosts the server check takes and which it refuses, and in which words. Only real Engines can tell."""

from pathlib import Path
from typing import Any

import pytest
from django.utils import translation

from containers.models import ServerCheck
from containers.services.checks import read_findings
from derpmgmt.lib.problems import translate
from fleet.models import Server
from fleet.services import confirm_host_key
from tests.factories import ServerFactory, SshCredentialFactory
from tests.lab import engines

from .conftest import Fleet

pytestmark = pytest.mark.django_db(transaction=True)


def what_it_says(check: ServerCheck) -> str:
    """The findings that are not good as an operator reads them in English."""
    with translation.override("en"):
        bad = [finding for finding in read_findings(check) if not finding["is_ok"]]
        lines = [" ".join([row["text"], row["remedy"], *row["rules"]]).strip() for row in bad]
        seen = "; ".join(row["detail"] for row in bad if row["detail"])
        said = " / ".join(dict.fromkeys(lines)) or translate(check.error, {})
        return f"{said} ({seen})" if seen else said


def test_each_good_server_passes_its_check(fleet: Fleet, work, record_property):
    Server.objects.update(status=Server.Status.NEW)
    for server in fleet.servers:
        confirm_host_key(server=server, line=server.host_key, by=None)
    work()
    checks = list(ServerCheck.objects.order_by("server"))
    assert [what_it_says(check) for check in checks] == [""] * 3
    assert set(Server.objects.values_list("status", flat=True)) == {Server.Status.HEALTHY}
    (version,) = set(Server.objects.values_list("docker_version", flat=True))
    record_property("version", version)
    assert engines.under_test().title.removeprefix("Docker ").startswith(version[:4])


@pytest.mark.parametrize("kind", engines.refused_kinds())
def test_server_is_refused_in_words_where_relays_would_lie(
    fleet: Fleet, host_of_kind: Any, work, record_property, kind: str
):
    host = host_of_kind(engines.refused_kinds()[kind])
    credential = SshCredentialFactory(
        name=kind, username=host.user, private_key=Path(host.private_key_path).read_text()
    )
    server = ServerFactory(
        name=kind,
        address=host.address,
        ssh_port=host.ssh_port,
        credential=credential,
        docker_socket=host.docker_socket,
    )
    confirm_host_key(server=server, line=host.host_key, by=None)
    work()
    server.refresh_from_db()
    check = ServerCheck.objects.get(server=server)
    said = what_it_says(check)
    record_property("engine", engines.under_test().title)
    record_property("kind", kind)
    record_property("refused", "no" if server.status == Server.Status.HEALTHY else "yes")
    record_property("said", said)
    assert (server.status, check.status) == (Server.Status.NEW, ServerCheck.Status.FAILED)
    assert kind in said.lower()
