"""How the panel speaks to MariaDB: with limits of time, so that a database that hangs holds nobody for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.commands import migrate
from django.core.signals import request_finished, request_started
from django.db import connection

from derpmgmt.lib.env import BASE_DIR

pytestmark = pytest.mark.slow

READ = (
    "import json; from derpmgmt import settings; print(json.dumps(settings.DATABASES['default']['OPTIONS']))"
)


def test_no_wait_for_the_database_is_endless_when_it_is_mariadb(tmp_path: Path):
    variables = {
        "DERPMGMT_DATABASE_URL": "mysql://panel:secret@127.0.0.1:3306/panel",
        "DERPMGMT_VAR_DIR": str(tmp_path),
    }
    read = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=BASE_DIR,
        env=os.environ | variables,
        capture_output=True,
        check=True,
    )
    options = json.loads(read.stdout)
    # MariaDB itself gives up waiting for a row's lock after 50 s: its answer to that must still be heard.
    assert 50 < options["read_timeout"] <= 120
    assert 0 < options["connect_timeout"] <= options["write_timeout"] <= options["read_timeout"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options that the database was opened with during a migration."""
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(
        migrate.Command,
        "handle",
        lambda *_args, **_options: options.append(dict(connection.settings_dict["OPTIONS"])),
    )
    return options


@pytest.mark.django_db(transaction=True)
def test_a_migration_has_all_the_time_it_needs(seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "read_timeout", 60)
    call_command("migrate", verbosity=0)
    assert "read_timeout" not in seen[0]
    assert connection.settings_dict["OPTIONS"].pop("read_timeout") == 60
    assert connection.connection is None


@pytest.mark.django_db(transaction=True)
def test_the_next_request_finds_the_connection_of_the_one_before() -> None:
    connection.close()
    kept = []
    for _ in range(2):
        request_started.send(object)
        connection.ensure_connection()
        kept.append(connection.connection)
        request_finished.send(object)
    assert kept[0] is kept[1] is connection.connection
    connection.close()
