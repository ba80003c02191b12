"""What `make test-engines` writes down about the runs of pytest."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import engines

TESTS = """
import pytest
def test_a_removed_container_comes_back(): pass
def test_a_stopped_container_is_started(): assert False, "it stays"
@pytest.mark.skip
def test_a_changed_container_is_made_anew(): pass
"""
KINDS = """
def test_refused(record_property):
    for name, value in dict(engine="Docker 1", kind="rootless", refused="yes", said="a|b").items():
        record_property(name, value)
def test_accepted(record_property):
    for name, value in dict(engine="Docker 1", kind="iptables", refused="no", said="").items():
        record_property(name, value)
    assert False
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """What pytest leaves of three tests of repair and two of kinds."""
    (tmp_path / "test_repair.py").write_text(TESTS)
    (tmp_path / "test_engine_kinds.py").write_text(KINDS)
    found = tmp_path / "26.xml"
    how = ["-p", "no:cacheprovider", "-p", "no:django", "-o", "junit_family=xunit1", f"--junitxml={found}"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "/dev/null", f"--rootdir={tmp_path}", *how, str(tmp_path)],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert ran.returncode == 1, ran.stdout
    return tmp_path


def test_page_tells_what_failed_and_what_was_refused_in_which_words(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = results / "engines.md"
    text = engines.PAGE.read_text()
    page.write_text(text)
    monkeypatch.setattr(engines, "PAGE", page)
    engines.write_page(results)
    written = page.read_text()
    line = next(line for line in written.splitlines() if line.startswith("| Docker 26.1"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1 + list(engines.COLUMNS).index("repair")] == (
        "**fails**: `test_a_stopped_container_is_started`"
    )
    assert cells[1 + list(engines.COLUMNS).index("removal")] == "–"
    assert "| Docker 1 | rootless | a\\|b |" in written.splitlines()
    assert "| Docker 1 | iptables | **accepted**:  |" in written.splitlines()
    # Around the tables nothing changes, and an Engine that is not tried again keeps its lines.
    assert written.splitlines()[0] == text.splitlines()[0]
    assert written.splitlines()[-1] == text.splitlines()[-1]
    (results / "26.xml").unlink()
    engines.write_page(results)
    assert page.read_text() == written
