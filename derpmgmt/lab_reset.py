"""What a demo of the lab left on the lab's hosts. Needs neither the panel's settings nor its database: either may be what is broken."""

import json
import os
import re
from pathlib import Path
from typing import Any

import django
from django.conf import settings

from derpmgmt.lib import early, env
from derpmgmt.lib.early import gettext as _

HOSTS_FILE = env.BASE_DIR / "var" / "lab" / "lab.json"
_PANEL_ID = re.compile(r"[0-9a-f]{8}")


def clean_hosts(state: Path, hosts_file: Path = HOSTS_FILE) -> list[str]:
    """Remove the containers and volumes of the panel whose state folder this is from every host that answers.

    Returns sentences about what was not removed, none where all was. Doing it twice does no harm.
    """
    if not os.path.lexists(state):
        return []
    if not hosts_file.exists():
        return [_("There is no lab, so nothing was removed from its hosts.")]
    panel_id = _read_panel_id(state)
    if panel_id is None:
        return [_("Nothing was removed from the lab's hosts: the demo's key panel_id cannot be read.")]
    try:
        hosts = json.loads(hosts_file.read_text())["hosts"]
        places = {f"{host['name']} ({host['address']})": host for host in hosts}
    except (OSError, ValueError, TypeError, LookupError):
        text = _("Nothing was removed from the lab's hosts: %(path)s cannot be read.")
        return [text % {"path": hosts_file}]
    _set_django_up()
    said = []
    for name, host in places.items():
        if reason := _clean(host, panel_id):
            text = _("%(host)s keeps what the demo left there (label derpmgmt.panel=%(id)s): %(reason)s")
            said.append(text % {"host": name, "id": panel_id, "reason": reason})
    return said


def _read_panel_id(state: Path) -> str | None:
    try:
        text = os.environ.get(f"{env.PREFIX}PANEL_ID") or (state / "keys" / "panel_id").read_text()
    except (OSError, ValueError):
        return None
    return text.strip() if _PANEL_ID.fullmatch(text.strip()) else None


def _clean(host: dict[str, Any], panel_id: str) -> str:
    """Why it was not done; "" when it was."""
    # They have sentences of their own, so Django comes first.
    from containers.deploy import remove_panel
    from fleet.engine import open_engine
    from fleet.ssh import Connection, Endpoint, RemoteError

    try:
        endpoint = Endpoint(
            host["address"],
            host["ssh_port"],
            host["user"],
            host["host_key"],
            Path(host["private_key_path"]).read_text(),
        )
        with Connection.open(endpoint) as connection:
            remove_panel(open_engine(connection, host["docker_socket"]), panel_id)
    except RemoteError as error:
        return str(error)
    except (OSError, ValueError, LookupError) as error:
        return str(error) or type(error).__name__
    return ""


def _set_django_up() -> None:
    if settings.configured:
        return
    language = early.match_language(os.environ.get(f"{env.PREFIX}LANGUAGE", "")) or early.locale_language()
    settings.configure(LANGUAGE_CODE=language, LOCALE_PATHS=[early.LOCALE_DIR], USE_TZ=True)
    django.setup()
