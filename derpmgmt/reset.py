"""`make demo-reset`: removes the demo's own state. Reads no settings, so that it also works where a broken file keeps them from being read."""

import os
import shutil
import sys
from pathlib import Path

from derpmgmt.lib import env
from derpmgmt.lib.early import gettext as _
from derpmgmt.lib.processes import AlreadyRunning, Lock


def reset_demo(hosts_file: Path | None = None) -> str:
    """Remove all that was done in the demo (`DERPMGMT_FLEET=lab`: in the lab's, and on its hosts, which `hosts_file` lists); a panel's own
    state stays. Returns what to say.

    Raises `SystemExit` with a sentence when a demo or panel runs in this folder, or when something cannot be removed.
    """
    is_lab = os.environ.get(f"{env.PREFIX}FLEET") == "lab"
    folder = env.home() / ("demo-lab" if is_lab else "demo")
    try:
        lock = Lock(env.running_lock())
    except AlreadyRunning as error:
        text = _("A panel or demo runs in %(folder)s (process %(pid)s). End that one first.")
        raise SystemExit(text % {"folder": env.home(), "pid": error.pid}) from error
    except OSError as error:
        raise SystemExit(_("%(path)s cannot be used: %(reason)s.") % _values(error)) from error
    said: list[str] = []
    try:
        if is_lab:
            from derpmgmt import lab_reset  # takes a moment, and nobody else needs it

            # First: the state knows which are ours.
            said = lab_reset.clean_hosts(folder, hosts_file or lab_reset.HOSTS_FILE)
        removed = _remove(folder)
        _delete(env.home() / "demo.json")
    except OSError as error:
        raise SystemExit(_("%(path)s cannot be used: %(reason)s.") % _values(error)) from error
    finally:
        lock.close()
    if not removed:
        return _("There is nothing of a demo in %(folder)s.") % {"folder": env.home()}
    start = "make demo FLEET=lab" if is_lab else "make demo"
    text = _("Removed: %(folder)s. “%(start)s” begins anew.") % {"folder": folder, "start": start}
    return "\n".join([*said, text])


def _remove(folder: Path) -> bool:
    """Whether there was something; at once or not at all, wherever this is killed. What is a file in a folder's place goes too."""
    aside = folder.with_name(f"{folder.name}.removed")
    _delete(aside)
    if not os.path.lexists(folder):
        return False
    folder.rename(aside)
    _delete(aside)
    return True


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _values(error: OSError) -> dict[str, str]:
    return {"path": str(error.filename), "reason": str(error.strerror)}


if __name__ == "__main__":
    print(reset_demo())
    sys.exit(0)
