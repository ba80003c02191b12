"""`manage.py doctor`: each fault of an installation is named, and the exit code says how bad it is."""

import json
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError
from django.utils import translation

from derpmgmt import doctor
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def state_folder(settings: Any, tmp_path: Path) -> Path:
    settings.VAR_DIR = tmp_path
    (tmp_path / "keys").mkdir(mode=0o700)
    return tmp_path


def found(*names: str) -> dict[str, doctor.Finding]:
    """The findings of the checks of these names, by code."""
    checks = [check for check in doctor.CHECKS if check.look.__name__ in names]
    assert len(checks) == len(names)
    return {each.code: each for check in checks for each in doctor._guarded(check)}


def test_a_database_of_another_version_is_critical_and_hides_what_needs_it(monkeypatch: Any) -> None:
    monkeypatch.setattr("derpmgmt.doctor.MigrationExecutor.migration_plan", lambda *_: [1, 2])
    codes = {each.code: each for each in doctor.examine()}
    assert codes["database_not_current"].level == "critical"
    assert "2 changes" in codes["database_not_current"].text
    assert "no_superadmin" not in codes


def test_whatever_breaks_is_a_finding_and_tells_no_secret(monkeypatch: Any) -> None:
    def broken(*_: Any) -> None:
        raise OperationalError("mysql://root:hunter2@db")

    monkeypatch.setattr("derpmgmt.doctor.read_matters", broken)
    findings = doctor.examine()
    [finding] = [each for each in findings if each.code == "what_the_rooms_say_unknown"]
    assert (finding.level, finding.text) == ("warning", "OperationalError")
    assert "hunter2" not in json.dumps([each.to_json() for each in findings])


@pytest.mark.parametrize(
    ("free", "level"), [(200_000_000, "critical"), (1_000_000_000, "warning"), (5_000_000_000, "good")]
)
def test_a_disk_that_fills_is_named_in_time(
    state_folder: Path, monkeypatch: Any, free: int, level: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    assert found("disk")["disk"].level == level


def test_keys_that_others_may_read_are_critical(state_folder: Path) -> None:
    assert "keys_open" not in found("disk")
    (state_folder / "keys").chmod(0o750)
    assert found("disk")["keys_open"].level == "critical"


def test_a_mail_server_that_does_not_answer_is_critical(settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    settings.EMAIL_URL = f"smtp://somebody:hunter2@127.0.0.1:{port}"
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_HOST_PASSWORD = "127.0.0.1", port, "hunter2"
    finding = found("mail")["mail_refused"]
    assert finding.level == "critical"
    assert f"127.0.0.1:{port}" in finding.text
    assert "hunter2" not in finding.text


def test_a_panel_without_mail_is_warned_of_but_no_demo(settings: Any) -> None:
    settings.EMAIL_URL, settings.IS_DEMO = "", False
    assert found("mail")["no_mail"].level == "warning"
    settings.IS_DEMO = True
    assert found("mail") == {}


def test_addresses_that_fit_no_real_panel_are_named(settings: Any) -> None:
    settings.PUBLIC_URL, settings.IS_HTTPS, settings.DEBUG = "http://203.0.113.7:8000", False, True
    settings.RELAY_URL, settings.BIND = "http://127.0.0.1:8000", "127.0.0.1"
    levels = {code: each.level for code, each in found("settings_of_the_panel").items()}
    assert levels == {"debug": "critical", "no_https": "warning", "unreachable": "warning", "address": "good"}


def test_redis_that_is_away_is_critical(settings: Any, monkeypatch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    gone = {"URL": f"redis://127.0.0.1:{port}/0"}
    monkeypatch.setattr("django_rq.queues.QUEUES", dict.fromkeys(settings.QUEUES, gone), raising=False)
    monkeypatch.setattr("derpmgmt.doctor.django_rq.get_connection", _connect(port))
    assert found("redis_server")["no_redis"].level == "critical"
    assert found("queues") == {}


def _connect(port: int) -> Any:
    import redis

    return lambda _name: redis.Redis(port=port, socket_connect_timeout=1)


class Redis:
    """What the checks ask Redis, with an answer each."""

    def __init__(self, **configured: str) -> None:
        self.configured = configured

    def __enter__(self) -> "Redis":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ping(self) -> bool:
        return True

    def config_get(self, name: str) -> dict[str, str]:
        return {name: self.configured.get(name, "")}


def test_a_redis_that_forgets_is_named(monkeypatch: Any) -> None:
    client = Redis(**{"maxmemory-policy": "allkeys-lru", "appendonly": "no"})
    monkeypatch.setattr("derpmgmt.doctor.django_rq.get_connection", lambda _name: client)
    levels = {code: each.level for code, each in found("redis_server").items()}
    assert levels == {"redis_evicts": "warning", "redis_not_kept": "information", "redis": "good"}


def test_queues_that_nobody_serves_and_jobs_that_wait_are_named(settings: Any, monkeypatch: Any) -> None:
    now = datetime.now(UTC)
    served = SimpleNamespace(last_heartbeat=now, queue_names=lambda: settings.QUEUES[1:])
    silent = SimpleNamespace(last_heartbeat=now - timedelta(minutes=5), queue_names=lambda: settings.QUEUES)
    workers = [served, silent]
    waits: dict[str, datetime] = {}
    monkeypatch.setattr("derpmgmt.doctor.django_rq.get_connection", lambda _name: Redis())
    monkeypatch.setattr("derpmgmt.doctor.BaseWorker.all", lambda **_: workers)
    monkeypatch.setattr("derpmgmt.doctor._waits_since", lambda queue: waits.get(queue.name))
    assert settings.QUEUES[0] in found("queues")["queues_unserved"].text
    workers.append(SimpleNamespace(last_heartbeat=now, queue_names=lambda: settings.QUEUES[:1]))
    assert found("queues")["queues"].level == "good"
    waits[settings.QUEUES[2]] = now - timedelta(seconds=30)
    assert "queues_late" not in found("queues")
    waits[settings.QUEUES[2]] = now - timedelta(minutes=3)
    assert settings.QUEUES[2] in found("queues")["queues_late"].text
    workers.clear()
    assert list(found("queues")) == ["not_running"]


def test_what_needs_a_person_is_said(monkeypatch: Any) -> None:
    UserFactory(role="superadmin")
    assert found("people") == {}
    assert found("what_the_rooms_say")["too_few_servers"].level == "critical"


@pytest.mark.parametrize(
    ("levels", "code"),
    [
        ([], 0),
        (["good", "information"], 0),
        (["good", "warning"], 1),
        (["warning", "critical", "good"], 2),
    ],
)
def test_the_exit_code_is_that_of_the_worst(monkeypatch: Any, levels: list[str], code: int) -> None:
    findings = [doctor.Finding(level, level, f"It is {level}", "why") for level in levels]
    monkeypatch.setattr("derpmgmt.doctor.examine", lambda: findings)
    out = StringIO()
    if code:
        with pytest.raises(SystemExit) as ended:
            call_command("doctor", "--json", stdout=out)
        assert ended.value.code == code
    else:
        call_command("doctor", "--json", stdout=out)
    assert [each["code"] for each in json.loads(out.getvalue())] == levels


def test_words_are_for_people_and_quiet_leaves_out_what_is_well(monkeypatch: Any) -> None:
    findings = [doctor.Finding("warning", "a", "Something", "mend it"), doctor.Finding("good", "b", "Fine")]
    monkeypatch.setattr("derpmgmt.doctor.examine", lambda: findings)
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("doctor", "--quiet", stdout=out)
    assert out.getvalue() == "! Something\n  mend it\n"
