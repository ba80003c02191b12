"""The embedded Valkey and the files it reads when it starts."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from derpmgmt.lib import valkey
from tests.panel.running import wait_for


@pytest.fixture
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("v")


@contextmanager
def running(var: Path) -> Iterator[int]:
    """Valkey as the supervisor starts it, from when it answers on; gives the process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            valkey.run(var)
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os._exit(code)
    try:
        wait_for(lambda: valkey.is_answering(var), "Valkey answers")
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        _pid, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert not valkey.is_answering(var)


def client(var: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(valkey.socket_path(var)))


def fill(var: Path) -> None:
    with running(var), client(var) as known:
        known.set("before", "1")
        known.bgrewriteaof()
        wait_for(lambda: not known.info("persistence")["aof_rewrite_in_progress"], "the base is written")
        for number in range(100):
            known.set(f"key{number}", "x" * 100)


def overwrite(pattern: str, at: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (path,) = folder.glob(f"appendonlydir/{pattern}")
        content = path.read_bytes()
        start = int(len(content) * at)
        path.write_bytes(content[:start] + b"\xffgarbage\r\n" * 5 + content[start:])

    return spoil


def no_file_but_a_folder(folder: Path) -> None:
    (path,) = folder.glob("appendonlydir/*.manifest")
    path.unlink()
    path.mkdir()


def base_gone(folder: Path) -> None:
    (path,) = folder.glob("appendonlydir/*.base.rdb")
    path.unlink()


SPOILT = {
    "manifest": overwrite("*.manifest", 0),
    "base": overwrite("*.base.rdb", 0),
    "log": overwrite("*.incr.aof", 0.5),
    "folder": no_file_but_a_folder,
    "base gone": base_gone,
    "all": lambda folder: [spoil(folder) for spoil in (SPOILT["manifest"], SPOILT["base"])] and None,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_files_that_cannot_be_read_are_put_aside_and_it_starts_empty(
    var: Path, spoil: Callable[[Path], None]
) -> None:
    fill(var)
    spoil(var / "valkey")
    with running(var), client(var) as known:
        assert known.dbsize() == 0
        known.set("after", "1")
    (aside,) = (var / "valkey").glob("unreadable-*")
    assert (aside / "appendonlydir").is_dir()
    with running(var), client(var) as known:
        assert known.keys() == [b"after"]


def test_what_was_written_is_there_when_it_starts_again(var: Path) -> None:
    fill(var)
    with running(var), client(var) as known:
        assert known.dbsize() == 101
    assert not list((var / "valkey").glob("unreadable-*"))


def test_a_file_that_only_lacks_its_end_is_read(var: Path) -> None:
    fill(var)
    (path,) = (var / "valkey").glob("appendonlydir/*.incr.aof")
    path.write_bytes(path.read_bytes()[:-20])
    with running(var), client(var) as known:
        assert known.dbsize() == 100


def test_files_stay_where_they_are_when_it_does_not_start_without_them_either(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(var)
    before = sorted(path.name for path in (var / "valkey").rglob("*"))
    monkeypatch.setattr(valkey, "binary_path", lambda: shutil.which("false"))
    monkeypatch.setattr(signal, "signal", lambda *_args: None)
    with pytest.raises(SystemExit) as ended:
        valkey.run(var)
    assert ended.value.code == 1
    assert sorted(path.name for path in (var / "valkey").rglob("*")) == before
