"""What went wrong is stored as code and values, and every page says it in its reader's language."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone, translation

from accounts.models import User
from containers.derp.probe import CAUSES
from containers.jobs.claims import take_step
from containers.models import Deployment, Relay, ServerCheck
from containers.problems import ProbeFailed, ServerResting
from containers.services import checks, gates, relays
from containers.services.images import NoGateImage, NoImage
from containers.steps import step_name
from derpmgmt.lib import problems
from derpmgmt.lib.problems import INTERNAL, Problem, declare, explain
from fleet import services as fleet
from fleet.engine_errors import SENTENCES as ENGINE_SENTENCES
from fleet.engine_errors import EngineError
from fleet.models import Server
from fleet.ssh import HostKeyChanged, RemoteError, TimedOut, Unreachable
from fleet.ssh.errors import SENTENCES
from tests.factories import DeploymentFactory, ServerCheckFactory, ServerFactory, WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db
HOST = {"host": "192.0.2.7", "port": 22}
ERRORS = [
    HostKeyChanged("192.0.2.7", "SHA256:old", "SHA256:new"),
    TimedOut(code="silent", **HOST),
    Unreachable(code="refused", detail="Connection refused", **HOST),
    EngineError(code="disk_full", detail="no space left on device"),
    ServerResting(),
    NoImage(),
    NoGateImage(),
    ProbeFailed(code="stun_silent"),
    RemoteError(),
]


def chinese(text: str) -> bool:
    return bool(re.search("[一-鿿]", text))


@pytest.fixture
def staff() -> Client:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="zh-hans")
    return client


def test_every_code_has_a_sentence_in_both_languages() -> None:
    assert {*SENTENCES, *ENGINE_SENTENCES, *CAUSES, INTERNAL} <= set(problems._SENTENCES)
    for code in problems._SENTENCES:
        if code == "proven":
            continue
        with translation.override("en"):
            assert not chinese(explain(code)), code
        with translation.override("zh-hans"):
            assert chinese(explain(code)), code


def test_a_code_never_gets_a_second_meaning() -> None:
    with pytest.raises(ValueError, match="timed_out"):
        declare({"timed_out": "Something else."})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_problem_holds_code_and_values_only_and_is_read_in_both_languages(error: RemoteError) -> None:
    with translation.override("zh-hans"):
        problem = Problem.of(error)
        assert problem.sentence == ""
        assert problem.text == str(error)
        assert chinese(problem.text)
    with translation.override("en"):
        assert problem.text == str(error)
        assert not chinese(problem.text)
        assert "%(" not in problem.text


def test_what_another_version_stored_is_shown_when_its_sentence_or_code_is_unknown() -> None:
    assert explain("of_the_future") == "of_the_future"
    assert explain("of_the_past", {}, "It was so.") == "It was so."
    with translation.override("en"):
        assert explain("silent", {"other": "1"}) == "%(host)s does not answer on port %(port)s."
    with translation.override("zh-hans"):
        assert explain("", {"host": "h", "port": "1"}, "%(host)s does not answer on port %(port)s.") == (
            "h 的端口 1 没有响应。"
        )


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_chinese_admin_says_why_a_server_is_unhealthy(staff: Client, error: RemoteError) -> None:
    server = ServerFactory(whole=True)
    for _time in range(2):
        fleet.record_failed_contact(server_pk=server.pk, error=error)
    server.refresh_from_db()
    assert (server.status, server.status_code, server.status_reason) == ("unhealthy", error.code, "")
    with translation.override("zh-hans"):
        reason = str(error)
        assert server.reason == reason
    assert reason in staff.get("/admin/fleet/server/").content.decode()
    assert reason in [matter.text for matter in staff.get("/admin/").context["matters"]]


def test_reason_from_before_is_shown_and_goes_with_the_next_answer(staff: Client) -> None:
    server = ServerFactory(
        whole=True, status=Server.Status.UNHEALTHY, status_reason="192.0.2.7 does not answer on port 22."
    )
    assert "192.0.2.7 does not answer on port 22." in staff.get("/admin/fleet/server/").content.decode()
    fleet.record_contact(server_pk=server.pk)
    for _time in range(2):
        fleet.record_failed_contact(server_pk=server.pk, error=TimedOut())
    server.refresh_from_db()
    assert (server.status_reason, server.status_code) == ("", "timed_out")
    fleet.record_contact(server_pk=server.pk)
    server.refresh_from_db()
    assert (server.status, server.reason) == ("healthy", "")


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_chinese_admin_shows_no_english_sentence_of_a_deployment(staff: Client, error: RemoteError) -> None:
    relay = WholeRentalFactory().relays.get(slot=1)
    deployment = DeploymentFactory(relay=relay)
    deployment.claim()
    take_step(deployment, "connect", "server-1 (192.0.2.7)")
    take_step(deployment, "gate", "network")
    problem = Problem.of(error)
    relays.record_failure(relay=relay, problem=problem, now=timezone.now())
    deployment.write(problem=problem, mark="✗")
    deployment.finish(Deployment.Status.FAILED, problem)
    assert deployment.error == ""
    page = staff.get(f"/admin/containers/deployment/{deployment.pk}/change/").content.decode()
    with translation.override("zh-hans"):
        assert page.count(str(error)) >= 2  # as the reason and in the log
        for name in ("connect", "gate", "network"):
            assert step_name(name) in page
    with translation.override("en"):
        assert str(error) not in page
    assert re.search(r"\d\.\d 秒", page)


def test_chinese_admin_shows_no_english_sentence_of_a_check(staff: Client) -> None:
    server = ServerFactory(whole=True, status=Server.Status.NEW)
    check = ServerCheckFactory(server=server)
    check.claim()
    take_step(check, "docker")
    checks.add_finding(
        check=check, finding=checks.Finding("docker", True, "Docker Engine %(version)s answers.", {"version": "26.1.5"})
    )  # fmt: skip
    page = staff.get(f"/admin/containers/servercheck/server/{server.pk}/").content.decode()
    with translation.override("zh-hans"):
        assert step_name("docker") in page
    finding = checks.Finding.of("docker", Problem.of(ERRORS[2]))
    assert (finding.sentence, finding.code) == ("", "refused")
    checks.add_finding(check=check, finding=finding)
    check.finish(ServerCheck.Status.FAILED, finding.problem)
    page = staff.get(f"/admin/containers/servercheck/server/{server.pk}/").content.decode()
    with translation.override("zh-hans"):
        assert page.count(str(ERRORS[2])) >= 3  # the finding, the reason, the log
    assert "answers." not in page
    assert "refuses connections" not in page
    assert "Connection refused" in page  # its own words


def test_findings_from_before_are_shown(staff: Client) -> None:
    server = ServerFactory(whole=True, status=Server.Status.NEW)
    old: dict[str, Any] = {
        "step": "machine", "is_ok": False, "sentence": "%(free)s GB of disk are free.", "values": {"free": "0.1"},
        "remedy": "", "rules": [], "detail": "",
    }  # fmt: skip
    ServerCheckFactory(
        server=server, status="failed", findings=[old], error_code="machine", error=old["sentence"],
        error_values=old["values"], log="2026-11-01T00:00:00.000Z\tmachine\t✗ 0.1 GB of disk are free.\n",
    )  # fmt: skip
    page = staff.get(f"/admin/containers/servercheck/server/{server.pk}/").content.decode()
    assert "磁盘剩余 0.1 GB。" in page
    assert "✗ 0.1 GB of disk are free." in page  # a line of the log stays as it was written


def test_gates_failure_is_told_in_chinese_whatever_it_is(staff: Client) -> None:
    gate = gates.gate_of(ServerFactory(whole=True).pk)
    for code in [*(error.code for error in ERRORS), INTERNAL, "crashed", "list_not_taken"]:
        gate.failure_code = code
        with translation.override("zh-hans"):
            assert chinese(str(gates.failure_text(gate))), code


@pytest.mark.parametrize("name", ["connect", "docker", "machine", "gate", "network", "image", "clean", "volume",
                                  "create", "files", "start", "check", "probe", "ports", "relay", "remove", "done"])  # fmt: skip
def test_every_step_has_words_in_both_languages(name: str) -> None:
    with translation.override("en"):
        assert step_name(name)[0].isupper()
    with translation.override("zh-hans"):
        assert chinese(step_name(name))


def test_steps_are_timed_and_the_last_one_of_open_work_goes_on() -> None:
    relay = WholeRentalFactory().relays.get(slot=1)
    now = timezone.now()
    stamp = lambda seconds: f"{now - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"  # noqa: E731
    log = f"{stamp(9)}\tconnect\tx\n{stamp(7)}\tgate\tnetwork\n{stamp(6)}\tgate\timage\n{stamp(2)}\tprobe\t\n"
    deployment = DeploymentFactory(relay=relay, status="running", step="probe", log=log)
    took = [(step.name, round(step.seconds), step.is_over) for step in deployment.step_times(now)]
    assert took == [("connect", 2, True), ("gate", 5, True), ("probe", 2, False)]
    deployment.status, deployment.finished_at = "done", now - timedelta(seconds=1)
    assert [(step.name, round(step.seconds), step.is_over) for step in deployment.step_times(now)][-1] == (
        "probe",
        1,
        True,
    )


def test_customers_card_shows_how_long_each_step_took() -> None:
    rental = WholeRentalFactory()
    relay = rental.relays.get(slot=1)
    Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.PLANNED)
    now = timezone.now()
    stamp = lambda seconds: f"{now - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"  # noqa: E731
    DeploymentFactory(
        relay=relay, status="running", step="image", started_at=now, heartbeat_at=now,
        log=f"{stamp(100.5)}\tconnect\tx\n{stamp(99)}\timage\t\n",
    )  # fmt: skip
    client = world.sign_in(rental.user)
    User.objects.filter(pk=rental.user_id).update(language="en")
    page = client.get("/home/relays/").content.decode()
    steps = re.findall(r'<li class="is-(\w+)">([^<]+?)(?: …| )?<.*?small">([^<]+)</span>', page)
    assert ("done", "Connect to the server", "1.5 s") in steps
    assert [(state, label) for state, label, _took in steps][1] == ("now", "Load the image …")
