"""How servers reach the panel, as the operator says it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from containers.certificates import make_certificate
from tests.panel.running import Folder

pytestmark = pytest.mark.slow

SHOW = "from django.conf import settings; print(settings.RELAY_URL); print(settings.RELAY_CA)"
CERTIFICATE = make_certificate("203.0.113.9", datetime.now(UTC))


def test_certificates_alone_are_taken_when_a_key_stands_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "panel.pem"
    path.write_text(f"My own\n{CERTIFICATE.key_pem}\n{CERTIFICATE.pem}{CERTIFICATE.pem}")
    given = {"DERPMGMT_RELAY_URL": "https://203.0.113.9/", "DERPMGMT_RELAY_CA": str(path)}
    shown = Folder(tmp_path / "var", **given).python(SHOW)
    assert shown == f"https://203.0.113.9\n{CERTIFICATE.pem}{CERTIFICATE.pem}".strip()


def test_text_is_taken_when_it_is_no_path(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(CERTIFICATE.pem)
    folder = Folder(tmp_path / "var", DERPMGMT_RELAY_CA_FILE=str(path))
    assert folder.python(SHOW) == f"http://127.0.0.1:8000\n{CERTIFICATE.pem}".strip()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DERPMGMT_RELAY_CA", "/nowhere/panel.pem"),
        ("DERPMGMT_RELAY_CA", "/bin/true"),
        ("DERPMGMT_RELAY_URL", "ftp://panel.example"),
        ("DERPMGMT_RELAY_URL", "https://me:hunter2@panel.example"),
    ],
)
def test_start_is_refused_in_words_when_a_value_is_wrong(tmp_path: Path, name: str, value: str) -> None:
    done = Folder(tmp_path / "var", **{name: value}).manage("check")
    assert done.returncode == 1
    assert name in done.stderr.splitlines()[-1]
    assert "hunter2" not in done.stderr
