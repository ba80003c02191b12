"""A demo whose state is broken says how it begins anew; a panel's state nobody is told to delete."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from derpmgmt.lib import keys
from tests.panel import preloaded
from tests.panel.running import Folder

pytestmark = pytest.mark.slow

ANEW, ANEW_IN_LAB = "“make demo-reset”", "“make demo-reset FLEET=lab”"


def reset(folder: Folder) -> None:
    done = preloaded.run(["-m", "derpmgmt.reset"], folder.environment(), timeout=60)
    assert done.returncode == 0, done.stderr


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda state: (state / name).write_bytes(content)


def lose(name: str) -> Callable[[Path], object]:
    return lambda state: (state / name).unlink()


def make_folder(name: str) -> Callable[[Path], object]:
    return lambda state: (state / name).mkdir(parents=True)


def leave(state: Path) -> None:
    """Nothing is broken."""


def write_foreign_database(state: Path) -> None:
    with sqlite3.connect(state / "panel.sqlite3") as database:
        database.execute("CREATE TABLE songs (title TEXT)")
    database.close()


def lose_keys(state: Path) -> None:
    write_foreign_database(state)
    for path in (state / "keys").iterdir():
        path.unlink()


BREAKS = {
    "empty key": write("keys/fields", b""),
    "malformed key": write("keys/panel_id", b"no id"),
    "binary key": write("keys/lookup", b"\xff\xff"),
    "lost keys": lose_keys,
    "empty database": write("panel.sqlite3", b""),
    "no database": write("panel.sqlite3", b"no database at all" * 1000),
    "another's database": write_foreign_database,
}


def broken(tmp_path: Path, break_it: Callable[[Path], object], name: str, **variables: str) -> Folder:
    folder = Folder(tmp_path / "var", LANG="C.UTF-8", LC_ALL="", **variables)
    keys.load_keys(folder.path / name, has_database=False)
    break_it(folder.path / name)
    return folder


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
def test_a_broken_demo_names_its_way_out(tmp_path: Path, break_it: Callable[[Path], object]) -> None:
    folder = broken(tmp_path, break_it, "demo")
    assert ANEW in folder.refuses("demo")
    reset(folder)
    assert not (folder.path / "demo").exists()


@pytest.mark.parametrize("name", ["empty key", "empty database"])
def test_the_way_out_of_the_labs_demo_is_its_own(tmp_path: Path, name: str) -> None:
    folder = broken(tmp_path, BREAKS[name], "demo-lab", DERPMGMT_FLEET="lab")
    said = folder.refuses("demo")
    assert ANEW_IN_LAB in said
    assert "“make demo FLEET=lab”" in said


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
def test_nobody_is_told_to_delete_a_panels_state(tmp_path: Path, break_it: Callable[[Path], object]) -> None:
    folder = broken(tmp_path, break_it, "")
    said = folder.refuses("up")
    assert str(folder.path) in said or "database" in said
    said = said.replace(str(folder.path), "").lower()
    assert not any(word in said for word in ("demo", "delete", "remove", "anew"))


@pytest.mark.parametrize(
    "break_it",
    [
        write("sandbox/hosts/sandbox-1/state.json", b"{"),
        make_folder("demo.log"),
        write("sandbox/client_key", b"no key"),
    ],
    ids=["servers", "log", "key"],
)
def test_whatever_else_of_a_demo_is_broken_is_said_too(
    tmp_path: Path, migrated: Path, break_it: Callable[[Path], object]
) -> None:
    folder = broken(tmp_path, leave, "demo")
    state = folder.path / "demo"
    shutil.copyfile(migrated, state / "panel.sqlite3")
    (state / "sandbox" / "hosts" / "sandbox-1").mkdir(parents=True)
    break_it(state)
    assert ANEW in folder.refuses("demo")
    reset(folder)


def test_a_demo_whose_folder_is_a_file_names_its_way_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var", LANG="C.UTF-8", LC_ALL="")
    folder.path.mkdir()
    (folder.path / "demo").touch()
    (folder.path / "demo.json").mkdir()
    assert ANEW in folder.refuses("demo")
    reset(folder)
    assert [path.name for path in folder.path.iterdir()] == ["running.lock"]


def test_keys_of_another_demo_name_the_way_out(tmp_path: Path, migrated: Path) -> None:
    folder = broken(tmp_path, leave, "demo")
    shutil.copyfile(migrated, folder.path / "demo" / "panel.sqlite3")
    done = folder.manage("server_list", DERPMGMT_DEMO="yes")  # notes whose keys these are
    assert done.returncode == 0, done.stderr
    (folder.path / "demo" / "keys" / "lookup").write_text("f" * 64)
    assert ANEW in folder.refuses("demo")
