"""What a command loads before it does anything: its own room, and nothing of the web, of SSH, Docker or Redis."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.panel.running import ROOT, Folder

pytestmark = pytest.mark.slow

# Of each a name that stands for all of it; together they take longer than all the rest.
HEAVY = {
    "apprise",
    "cryptography.x509",
    "derpmgmt.api",
    "derpmgmt.flow",
    "derpmgmt.urls",
    "docker",
    "fido2",
    "ninja",
    "paramiko",
    "redis",
    "requests",
    "rq",
}
# A new process loads some 820 modules, of which Django has 300. Before it loaded what it needs alone there were 1,670.
MOST_MODULES = 900


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Folder:
    """A state folder whose database has every table."""
    return Folder(tmp_path_factory.mktemp("start") / "var").fill(migrated)


def run(folder: Folder, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process that has loaded nothing, in the project's folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=folder.environment(LANG="C.UTF-8", DJANGO_SETTINGS_MODULE="derpmgmt.settings"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def loaded(folder: Folder, *arguments: str) -> set[str]:
    """The modules that `manage.py` imports for this command."""
    lines = run(folder, "-X", "importtime", "manage.py", *arguments).stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.parametrize(
    "name",
    ["server_list", "relay_list", "user_list", "serial_list", "activity_log", "user_create --help", "help"],
)
def test_a_command_loads_nothing_of_the_web_or_the_servers(folder: Folder, name: str) -> None:
    modules = loaded(folder, *name.split())
    assert not modules & HEAVY
    assert len(modules) < MOST_MODULES


# Where there is none of it: no address, no job, no code of a server's.
BEFORE = """
import sys
import django
django.setup()
from django.contrib import admin
from django.core import checks
from accounts.models import User
from derpmgmt.lib import problems, queue
"""


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("print(queue.ask('closing_left', User(pk=1)))", "[]"),
        (
            "print('rq' in sys.modules); queue.announce('user_barred', 1); print('rq' in sys.modules)",
            "False\nTrue",
        ),
        (
            (
                "codes = 'port_taken', 'same_machine', 'no_image', 'proven', 'database_failed', 'unreachable', 'nobodys'\n"
                "print(*(bool(str(problems.sentence_of(code))) for code in codes))"
            ),
            "True True True True True True False",
        ),
        ("checks.run_checks(tags=['admin']); print(User in admin.site._registry)", "True"),
    ],
    ids=["questions", "bells", "sentences", "pages to check"],
)
def test_what_is_loaded_later_is_there_when_it_is_asked_for(folder: Folder, code: str, printed: str) -> None:
    assert run(folder, "-c", BEFORE + code).stdout.strip() == printed
