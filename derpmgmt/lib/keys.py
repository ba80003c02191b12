"""The panel's own keys: made once, kept in `var/keys`, never replaced behind the operator's back.

Losing them loses every relay key, SSH key and serial number in the database, so a panel that finds a database but no keys
refuses to start instead of making new ones.
"""

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

from derpmgmt.lib import env


@dataclass(frozen=True)
class Keys:
    """`django` signs sessions; `fields` encrypt columns, the newest first; `lookup` keys the HMACs by which serial numbers
    and former e-mail addresses are found; `panel_id` (8 hex digits, not a secret) marks what is ours on a host; `made` names
    those that were made just now."""

    django: str = field(repr=False)
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

    Raises `ImproperlyConfigured` when `has_database` but the keys are gone.
    """
    folder = var_dir / "keys"
    given = {
        "django": env.read("SECRET_KEY"),
        "fields": env.read("FIELD_KEYS"),
        "lookup": env.read("LOOKUP_KEY"),
        "panel_id": env.read("PANEL_ID"),
    }
    missing = [name for name, value in given.items() if not value and not (folder / name).exists()]
    if missing:
        if has_database:
            raise ImproperlyConfigured(
                f"There is a database, but its keys are missing from {folder}: {', '.join(missing)}. "
                "Put back the copy you saved. Without these keys the stored secrets cannot be read."
            )
        _make(folder)
    values = {name: value or (folder / name).read_text().strip() for name, value in given.items()}
    return Keys(
        django=values["django"],
        fields=values["fields"].replace(",", " ").split(),
        lookup=values["lookup"],
        panel_id=values["panel_id"],
        made=tuple(missing),
    )
