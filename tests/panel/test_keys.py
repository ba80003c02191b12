"""Keys that are empty, malformed or another panel's: one sentence and no start."""

import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from derpmgmt.lib import env, keys
from derpmgmt.models import KeyFingerprint, foreign_keys_given
from derpmgmt.own_keys import ForeignKeys, check_keys
from serials.numbers.models import SerialNumber
from tests.factories import SerialBatchFactory
from tests.panel.running import Folder

pytestmark = pytest.mark.slow


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A state folder with keys."""
    keys.load_keys(tmp_path, has_database=False)
    return tmp_path


WRONG = [
    ("lookup", b""),
    ("lookup", b" \n"),
    ("lookup", b"short"),
    ("lookup", b"a-good-word-of-64 another-good-word-of-64"),
    ("lookup", b"a-good-word-\x00-of-64"),
    ("lookup", b"\xff\xfe\x00" * 20),
    ("panel_id", b""),
    ("panel_id", b"12345"),
    ("panel_id", b"ABCDEF01"),
    ("panel_id", b"../../ab"),
    ("panel_id", b"12345678\n9"),
    ("django", b""),
    ("django", b"secret"),
    ("fields", b""),
    ("fields", b","),
    ("fields", b"not-a-fernet-key"),
    ("fields", Fernet.generate_key() + b", " + b"A" * 43),
    ("fields", Fernet.generate_key()[:-4]),
]


@pytest.mark.parametrize(("name", "content"), WRONG, ids=range(len(WRONG)))
def test_a_key_that_cannot_be_right_is_refused_and_named_but_not_shown(
    made: Path, name: str, content: bytes
) -> None:
    path = made / "keys" / name
    path.write_bytes(content)
    with pytest.raises(ImproperlyConfigured) as refused:
        keys.load_keys(made, has_database=True)
    assert str(path) in str(refused.value)
    shown = content.decode(errors="replace").strip()
    assert len(shown) < 4 or shown not in str(refused.value)
    assert path.read_bytes() == content  # the operator may still need it


def test_a_key_that_is_a_folder_or_given_by_a_wrong_variable_is_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DERPMGMT_LOOKUP_KEY", "short")
    with pytest.raises(ImproperlyConfigured, match="DERPMGMT_LOOKUP_KEY"):
        keys.load_keys(made, has_database=True)
    monkeypatch.delenv("DERPMGMT_LOOKUP_KEY")
    (made / "keys" / "lookup").unlink()
    (made / "keys" / "lookup").mkdir()
    with pytest.raises(ImproperlyConfigured, match="lookup"):
        keys.load_keys(made, has_database=True)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xff"])
def test_a_secret_in_an_empty_or_binary_file_is_no_empty_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("DERPMGMT_LOOKUP_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(ImproperlyConfigured, match="DERPMGMT_LOOKUP_KEY_FILE"):
        env.read("LOOKUP_KEY")


# Fingerprints


def other(name: str) -> Any:
    """Another panel's key."""
    return {
        "LOOKUP_KEY": secrets.token_hex(32),
        "PANEL_ID": "0badcafe",
        "FIELD_KEYS": [Fernet.generate_key().decode()],
        "SECRET_KEY": secrets.token_urlsafe(50),
    }[name]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("LOOKUP_KEY", "lookup"),
        ("PANEL_ID", "panel_id"),
        ("FIELD_KEYS", "fields"),
        ("SECRET_KEY", "django"),
    ],
)
def test_a_foreign_key_is_known_at_every_start(settings: Any, setting: str, name: str) -> None:
    check_keys()
    check_keys()
    rows = set(KeyFingerprint.objects.values_list("name", "fingerprint"))
    setattr(settings, setting, other(setting))
    for _start in range(2):
        with pytest.raises(ForeignKeys, match=name):
            check_keys()
    assert set(KeyFingerprint.objects.values_list("name", "fingerprint")) == rows


@pytest.mark.django_db
def test_no_fingerprint_holds_a_word_of_a_key(settings: Any) -> None:
    foreign_keys_given()
    kept = " ".join(KeyFingerprint.objects.values_list("fingerprint", flat=True))
    assert KeyFingerprint.objects.count() == 4
    for key in (settings.LOOKUP_KEY, settings.SECRET_KEY, *settings.FIELD_KEYS, settings.PANEL_ID):
        assert key not in kept


@pytest.mark.django_db
def test_a_newer_key_comes_in_beside_the_one_that_is_known(settings: Any) -> None:
    foreign_keys_given()
    newer = other("FIELD_KEYS") + other("FIELD_KEYS")
    settings.FIELD_KEYS = [newer[0], *settings.FIELD_KEYS]
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], other("SECRET_KEY")
    assert foreign_keys_given() == []
    # And stays known when the older one goes.
    settings.FIELD_KEYS, settings.SECRET_KEY_FALLBACKS = newer[:1], []
    assert foreign_keys_given() == []


@pytest.mark.django_db
def test_a_foreign_look_up_key_is_known_by_serial_numbers_where_no_fingerprint_was_kept(
    settings: Any,
) -> None:
    SerialBatchFactory(count=2)
    check_keys()
    KeyFingerprint.objects.all().delete()
    settings.LOOKUP_KEY = other("LOOKUP_KEY")
    with pytest.raises(ForeignKeys, match="lookup"):
        check_keys()
    assert not KeyFingerprint.objects.exists()
    assert SerialNumber.objects.count() == 2


def test_the_panel_says_it_in_a_sentence_and_does_not_start(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    keys.load_keys(folder.path, has_database=False)
    (folder.path / "keys" / "lookup").write_text("")
    done = folder.manage("up", DERPMGMT_PORT=str(folder.port))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(folder.path / "keys" / "lookup") in done.stderr


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("lookup", ["server_list", "--json"]),
        ("fields", ["server_list"]),
        ("panel_id", ["serials_create", "--count", "1", "--days", "30", "--name", "b"]),
        ("django", ["user_create", "li@example.com", "--role", "admin"]),
        ("fields", ["shell", "-c", "print(1)"]),
        ("lookup", ["dumpdata"]),
    ],
)
def test_every_command_refuses_a_foreign_key(own: Folder, name: str, command: list[str]) -> None:
    path = own.path / "keys" / name
    kept = path.read_text()
    path.write_text(OTHERS[name])
    try:
        done = own.manage(*command, DERPMGMT_LANGUAGE="en")
    finally:
        path.write_text(kept)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"are not those of this database: {name}." in done.stderr
    assert done.stderr.count("\n") == 1
    assert OTHERS[name] not in done.stderr


def test_commands_go_on_with_the_right_keys(own: Folder) -> None:
    assert own.manage("server_list").returncode == 0
    assert own.manage("server_list", "--help").returncode == 0


OTHERS = {
    "lookup": "7" * 64,
    "fields": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "panel_id": "01234567",
    "django": "q" * 60,
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Folder:
    """A state folder whose database knows its keys."""
    made = Folder(tmp_path_factory.mktemp("own") / "var").fill(migrated)
    done = made.manage("server_list")
    assert done.returncode == 0, done.stderr
    # As `up` does at the first start, where no command did before.
    made.manage("shell", "-c", "from derpmgmt.models import foreign_keys_given; print(foreign_keys_given())")
    return made
