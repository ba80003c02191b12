"""What the processes of one run (pytest-xdist's workers) do once for all of them: rewriting tests' asserts, and migrating."""

import fcntl
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

FOLDER = "derpmgmt_folder"


def share(node: object, folder: Path) -> None:
    """Tell a worker, which is about to start, the folder that all of its run have in common."""
    node.workerinput[FOLDER] = str(folder)  # type: ignore[attr-defined]


def rewrite_own_share(config: pytest.Config, tests: Path) -> None:
    """Rewrite every n-th file of tests, where no result is kept yet; else each of n workers would rewrite all, the same at the same time."""
    given = getattr(config, "workerinput", None)
    if given is None or sys.dont_write_bytecode:
        return
    first, step = int(given["workerid"].removeprefix("gw")), given["workercount"]
    for path in sorted(tests.rglob("test_*.py"))[first::step]:
        kept = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
        if rewrite._read_pyc(path, kept) is None:
            kept.parent.mkdir(exist_ok=True)
            source_hash, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, source_hash, kept)


def make_once(config: pytest.Config, name: str, make: Callable[[], Path]) -> Path | None:
    """A copy, in the run's folder, of the file that `make` leaves; None where this process just made it, or shares with nobody."""
    folder = getattr(config, "workerinput", {}).get(FOLDER)
    if folder is None:
        make()
        return None
    kept = Path(folder) / name
    with (Path(folder) / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            return kept
        part = kept.with_suffix(".part")
        shutil.copyfile(make(), part)
        part.replace(kept)
        return None
