"""What the panel learns from outside: `DERPMGMT_…` variables and the record of the panel that runs in this folder."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from derpmgmt.lib.early import gettext as _
from derpmgmt.lib.processes import Lock

BASE_DIR = Path(__file__).resolve().parents[2]
PREFIX = "DERPMGMT_"


def read(name: str, default: str = "") -> str:
    """The variable `DERPMGMT_<name>`, or the content of the file that `DERPMGMT_<name>_FILE` names.

    What this process was not given is taken from the demo or panel that runs in this folder, so that a command beside it works with
    the same database. Raises `ImproperlyConfigured` when that file cannot be read or has nothing in it, so that a missing secret
    is never an empty one.
    """
    for variables in (os.environ, read_running().get("variables", {})):
        if path := variables.get(f"{PREFIX}{name}_FILE"):
            try:
                content = Path(path).read_text().strip()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else _("it is not text")
                text = _("%(path)s cannot be read: %(reason)s") % {"path": path, "reason": reason}
                raise ImproperlyConfigured(f"{PREFIX}{name}_FILE: {text}") from error
            if not content:
                text = _("%(name)s: there is nothing in %(path)s.")
                raise ImproperlyConfigured(text % {"name": f"{PREFIX}{name}_FILE", "path": path})
            return content
        if (value := variables.get(f"{PREFIX}{name}")) is not None:
            return str(value)
    return default


def read_bool(name: str, default: bool = False) -> bool:
    """A yes/no variable; raises `ImproperlyConfigured` for anything but 1/0, true/false, yes/no, on/off."""
    value = read(name).lower()
    if value == "":
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    text = _("%(name)s: say yes or no, not “%(value)s”.")
    raise ImproperlyConfigured(text % {"name": f"{PREFIX}{name}", "value": value})


def read_int(name: str, default: int) -> int:
    """A whole number; raises `ImproperlyConfigured` when it is not one."""
    value = read(name)
    try:
        return int(value) if value else default
    except ValueError as error:
        text = _("%(name)s: a whole number, not “%(value)s”.")
        raise ImproperlyConfigured(text % {"name": f"{PREFIX}{name}", "value": value}) from error


def read_list(name: str) -> list[str]:
    """A list, separated by commas."""
    return [part.strip() for part in read(name).split(",") if part.strip()]


def home() -> Path:
    """Where all state lies: `DERPMGMT_VAR_DIR`, else `var/` beside the code."""
    return Path(os.environ.get(f"{PREFIX}VAR_DIR") or BASE_DIR / "var").resolve()


def var_dir() -> Path:
    """The state folder of this panel. A demo has one of its own in `home()`, so no panel ever inherits the demo's accounts."""
    if not read_bool("DEMO"):
        return home()
    return home() / ("demo-lab" if read("FLEET") == "lab" else "demo")


def begin_anew() -> str:
    """The way out of a demo whose state is broken, as a sentence; "" for a real panel, whose state nobody is ever told to delete."""
    if not read_bool("DEMO"):
        return ""
    fleet = " FLEET=lab" if read("FLEET") == "lab" else ""
    text = _("“%(reset)s” removes all that was done in the demo, and “%(start)s” begins anew.")
    return text % {"reset": f"make demo-reset{fleet}", "start": f"make demo{fleet}"}


def restore() -> str:
    """What to do about keys or a database that are lost or foreign, as a sentence."""
    anew = "" if read("DATABASE_URL") else begin_anew()
    return anew or _("Put back the copy you saved.")


def running_file() -> Path:
    """The record (JSON, 0600) of the demo or panel that runs in this folder."""
    return home() / "running.json"


def running_lock() -> Path:
    """Held as long as a demo or panel runs in this folder."""
    return home() / "running.lock"


def read_running() -> dict[str, Any]:
    """The record of the demo or panel that runs in this folder now; empty when none does.

    What a killed one left behind does not count, even when its process id is somebody else's by now. Raises
    `ImproperlyConfigured` when one runs whose record cannot be read.
    """
    return _read_running(running_file(), running_lock())


@cache
def _read_running(path: Path, lock: Path) -> dict[str, Any]:
    holder = Lock.holder(lock)
    if not holder:
        return {}
    try:
        record = json.loads(path.read_text())
        if record["pid"] != holder:
            return {}  # a killed one's; this one is about to write its own
        if not isinstance(record["variables"], dict):
            raise TypeError("variables")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError) as error:
        # Without it a command would work with another database.
        text = _(
            "A panel or demo runs here (process %(process)s), but %(path)s cannot be read (%(error)s). End that one and start it "
            "again."
        )
        values = {"process": holder, "path": path, "error": type(error).__name__}
        raise ImproperlyConfigured(text % values) from error
    return dict(record)
