"""The panel's own keys: made once, kept in `var/keys`, never replaced behind the operator's back.

Losing them loses every relay key, SSH key and serial number in the database, so a panel that finds a database but no keys, or keys
that cannot be right, refuses to start. Whether they are those of its database, the database knows (`derpmgmt.own_keys`).
"""

import contextlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from derpmgmt.lib import env
from derpmgmt.lib.early import gettext as _

# Shorter is no secret. Those that are made here have 64 and more.
LEAST_CHARACTERS = 16


@dataclass(frozen=True)
class Keys:
    """`django` signs sessions and codes, the newest first; `fields` encrypt columns, the newest first; `lookup` keys the HMACs by which
    serial numbers and former e-mail addresses are found; `panel_id` (8 hex digits, not a secret) marks what is ours on a host;
    `made` names those that were made just now."""

    django: list[str] = field(repr=False)
    fields: list[str] = field(repr=False)
    lookup: str = field(repr=False)
    panel_id: str
    made: tuple[str, ...]


def _make(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = {
        "fields": Fernet.generate_key().decode(),
        "lookup": secrets.token_hex(32),
        "panel_id": secrets.token_hex(4),
        "django": secrets.token_urlsafe(50),
    }
    for name, value in made.items():
        # Written aside and linked: whoever comes second keeps the first one's key, and nobody reads half a file.
        aside = folder / f".{name}.{os.getpid()}"
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(value + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(aside, folder / name)
        aside.unlink()


def load_keys(var_dir: Path, *, has_database: bool) -> Keys:
    """The keys from `DERPMGMT_SECRET_KEY`, `_FIELD_KEYS`, `_LOOKUP_KEY`, `_PANEL_ID` or else from `var_dir/keys`, made there
    when this is a new panel.

    Raises `ImproperlyConfigured` when `has_database` but the keys are gone, and when one cannot be read or be right.
    """
    folder = var_dir / "keys"
    given = {
        "django": env.read("SECRET_KEY"),
        "fields": env.read("FIELD_KEYS"),
        "lookup": env.read("LOOKUP_KEY"),
        "panel_id": env.read("PANEL_ID"),
    }
    try:
        missing = [name for name, value in given.items() if not value and not (folder / name).exists()]
    except OSError as error:
        text = _("The keys in %(folder)s cannot be read: %(reason)s.")
        raise _broken(text % {"folder": folder, "reason": error.strerror}) from error
    if missing:
        if has_database:
            text = _(
                "There is a database, but its keys are missing from %(folder)s: %(names)s. Without these keys the stored secrets "
                "cannot be read. %(restore)s"
            )
            raise ImproperlyConfigured(
                text % {"folder": folder, "names": ", ".join(missing), "restore": env.restore()}
            )
        try:
            _make(folder)
        except OSError as error:
            text = _("The panel's keys cannot be made in %(folder)s: %(reason)s.")
            raise _broken(text % {"folder": folder, "reason": error.strerror}) from error
    values = {name: value or _read(folder / name) for name, value in given.items()}
    for name, value in values.items():
        if wrong := _what_is_wrong(name, value):
            if given[name]:
                text = _("The key in %(path)s cannot be right: %(reason)s. Put back the copy you saved.")
                where = f"{env.PREFIX}{_VARIABLES[name]}"
                raise ImproperlyConfigured(text % {"path": where, "reason": wrong})
            raise _wrong(folder / name, wrong)
    return Keys(
        django=values["django"].split(),
        fields=_parts(values["fields"]),
        lookup=values["lookup"],
        panel_id=values["panel_id"],
        made=tuple(missing),
    )


_VARIABLES = {"django": "SECRET_KEY", "fields": "FIELD_KEYS", "lookup": "LOOKUP_KEY", "panel_id": "PANEL_ID"}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        text = _("The key in %(path)s cannot be read: %(reason)s.")
        raise _broken(text % {"path": path, "reason": error.strerror}) from error
    except ValueError as error:
        raise _wrong(path, _("it is not text")) from error


def _broken(text: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{text} {env.begin_anew()}".rstrip())


def _wrong(path: Path, reason: str) -> ImproperlyConfigured:
    text = _("The key in %(path)s cannot be right: %(reason)s. %(restore)s")
    return ImproperlyConfigured(text % {"path": path, "reason": reason, "restore": env.restore()})


def _parts(value: str) -> list[str]:
    return value.replace(",", " ").split()


def _what_is_wrong(name: str, value: str) -> str:
    """Why a key cannot be one, without a word of it; empty when it can."""
    if not value.split():
        return _("it is empty")
    if name == "panel_id":
        return "" if re.fullmatch(r"[0-9a-f]{8}", value) else _("it must be 8 hex digits in small letters")
    if name == "fields":
        if not _parts(value):
            return _("it is empty")
        for number, key in enumerate(_parts(value), start=1):
            try:
                Fernet(key)
            except ValueError:
                text = _("number %(number)s of it is not a Fernet key (32 bytes in URL-safe base64)")
                return text % {"number": number}
        return ""
    if name == "lookup" and (len(value.split()) > 1 or not value.isprintable()):
        return _("it must be one word")
    if any(len(part) < LEAST_CHARACTERS for part in value.split()):
        return _("it has fewer than %(count)s characters") % {"count": LEAST_CHARACTERS}
    return ""
