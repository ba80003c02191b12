"""A state folder in which something is broken: a sentence, or it is put right; never a traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from derpmgmt.lib import env, keys, valkey
from derpmgmt.lib.processes import Lock
from tests.panel.running import ROOT, Folder

pytestmark = pytest.mark.slow


def refuses(folder: Folder, *prefix: str, command: str = "up") -> str:
    """What is said when the panel does not start; with a prefix, as that program starts it."""
    if not prefix:
        return folder.refuses(command)
    done = subprocess.run(
        [*prefix, sys.executable, "manage.py", command],
        cwd=ROOT,
        env=folder.environment(DERPMGMT_PORT=str(folder.port)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


def as_who_may_not_write() -> tuple[str, ...]:
    """Even root may not write where the permissions say no."""
    if os.getuid():
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv, or not to be root")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--")


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    folder.path.mkdir()
    folder.path.chmod(0o500)
    assert str(folder.path) in refuses(folder, *as_who_may_not_write())


def test_a_state_folder_that_became_unwritable_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    keys.load_keys(folder.path, has_database=False)
    folder.path.chmod(0o500)
    assert str(folder.path) in refuses(folder, *as_who_may_not_write())


@pytest.mark.parametrize("name", ["keys", "keys/lookup", "panel.sqlite3"])
def test_what_may_not_be_read_in_the_state_folder_is_named(tmp_path: Path, migrated: Path, name: str) -> None:
    folder = Folder(tmp_path / "var").fill(migrated)
    (folder.path / name).chmod(0)
    said = refuses(folder, *as_who_may_not_write(), command="server_list")
    assert name.partition("/")[0] in said or "database" in said
    (folder.path / name).chmod(0o700)


def test_a_state_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    assert str(tmp_path / "var") in refuses(Folder(tmp_path / "var"))


@pytest.mark.parametrize("command", ["up", "server_list"])
def test_an_empty_database_beside_keys_is_no_new_panel(tmp_path: Path, command: str) -> None:
    folder = Folder(tmp_path / "var")
    keys.load_keys(folder.path, has_database=False)
    (folder.path / "panel.sqlite3").touch()
    assert "panel.sqlite3" in refuses(folder, command=command)
    assert (folder.path / "panel.sqlite3").stat().st_size == 0


def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    keys.load_keys(folder.path, has_database=False)
    (folder.path / "panel.sqlite3").write_bytes(b"no database at all" * 1000)
    assert "database" in refuses(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid": 1}', b"\xff\x00"])
def test_a_record_of_a_running_panel_that_cannot_be_read_is_said(tmp_path: Path, content: bytes) -> None:
    lock = Lock(tmp_path / "running.lock")
    (tmp_path / "running.json").write_bytes(content)
    folder = Folder(tmp_path)
    try:
        if content == b'{"pid": 1}':  # a killed panel's: this one is about to write its own
            assert env._read_running(tmp_path / "running.json", tmp_path / "running.lock") == {}
        else:
            assert "running.json" in refuses(folder, command="server_list")
    finally:
        lock.close()


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\x00", b"-5"])
def test_a_lock_with_something_else_in_it_can_be_taken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "running.lock"
    path.write_bytes(content)
    assert Lock.holder(path) == 0
    lock = Lock(path)
    assert Lock.holder(path) == os.getpid()
    path.write_bytes(content)
    assert Lock.holder(path) == 0
    lock.close()


def test_a_copied_folder_has_a_sockets_folder_of_its_own(tmp_path: Path) -> None:
    folder, copy = tmp_path / ("long" * 30), tmp_path / ("copy" * 30)
    found = valkey.socket_path(folder)
    shutil.copytree(folder, copy)
    assert valkey.socket_path(copy) != found
    assert valkey.socket_path(folder) == found
    for path in (found, valkey.socket_path(copy)):
        path.parent.rmdir()


@pytest.mark.parametrize("content", [b"", b"\xff\x00\n", b"/nowhere"])
def test_the_sockets_folder_is_made_anew_when_its_record_is_broken(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / ("long" * 30)
    (folder / "valkey").mkdir(parents=True)
    (folder / "valkey" / "socket_folder").write_bytes(content)
    found = valkey.socket_path(folder)
    assert found == valkey.socket_path(folder)
    assert found.parent.is_dir()
    found.parent.rmdir()
