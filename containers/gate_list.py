"""Having a gate's nginx take up its list of devices, seen to the end."""

import time
from collections import Counter

from django.utils.translation import gettext_lazy as _

from containers.deploy import LOG_LINES, end_of
from containers.gate import gate_name
from fleet.engine import Engine, engine_errors
from fleet.engine_errors import EngineError
from fleet.ssh import RemoteError

_RELOAD_SECONDS = 5.0
# Where nobody can show when nginx has done it: it takes a tenth of a second.
_RELOAD_UNSEEN_SECONDS = 1.0
# Codes of an EngineError that say that the container, or the Engine itself, is not there to be asked.
_GONE = {"not_found", "conflict", "busy", "daemon_down", "no_docker"}


class ListNotTaken(RemoteError):
    """A gate's nginx goes on with its old list of devices; `detail` is the end of its log."""

    code = "list_not_taken"
    sentence = _("The gate did not take up the new list of devices.")


def activate_list(engine: Engine, panel_id: str) -> None:
    """Have the gate's nginx read its list again; returns once nobody is answered by the old one any more.

    After HUP nginx starts new workers beside the old ones, which take questions for a moment longer; a list that it cannot
    read leaves it with the old ones (https://nginx.org/en/docs/control.html). Raises ListNotTaken then, else RemoteError.
    Where the host does not tell its processes, some time is waited instead, and the log says whether the list was read.
    """
    name = gate_name(panel_id)
    # One that runs has workers: where none are found among its processes, the host lists them in a way of its own.
    before = _workers(engine, name) or None
    complaints = None if before else _complaints(engine, name)
    with engine_errors():
        engine.kill(name, "HUP")
    deadline = time.monotonic() + _RELOAD_SECONDS
    while True:
        workers = None if before is None else _workers(engine, name)
        if before is None or workers is None:
            time.sleep(_RELOAD_UNSEEN_SECONDS)
            check_gate_runs(engine, panel_id)
            if complaints is not None and (new := _complaints(engine, name) - complaints):
                raise ListNotTaken(detail="\n".join(new))
            return
        if workers and not workers & before:
            return
        if time.monotonic() > deadline:
            with engine_errors():
                raise ListNotTaken(detail=end_of(engine.logs(name, tail=LOG_LINES)))
        time.sleep(0.05)


def check_gate_runs(engine: Engine, panel_id: str) -> None:
    """Raise ListNotTaken, with the end of its log, when the gate does not run. Raises RemoteError."""
    with engine_errors():
        state = engine.inspect_container(gate_name(panel_id))["State"]
        if not state["Running"] or state.get("Restarting"):
            raise ListNotTaken(detail=end_of(engine.logs(gate_name(panel_id), tail=LOG_LINES)))


def _workers(engine: Engine, name: str) -> set[str] | None:
    """The process ids of a gate's workers that take questions; None when the host does not tell.

    It has no ps, or one that knows no such columns, or the Engine may not look (rootless ones answer 500).
    """
    try:
        with engine_errors():
            processes = engine.top(name, ps_args="-o pid,args")["Processes"] or []
    except EngineError as error:
        if error.code in _GONE:
            raise
        return None
    titles = {row[0]: row[1].rstrip() for row in processes if len(row) == 2}
    # One that ends is called "nginx: worker process is shutting down".
    return {pid for pid, title in titles.items() if title == "nginx: worker process"}


def _complaints(engine: Engine, name: str) -> Counter[str]:
    """What nginx could not read, by the end of its log: how often each line stands there."""
    with engine_errors():
        lines = engine.logs(name, tail=LOG_LINES).decode(errors="replace").splitlines()
    return Counter(line for line in lines if "[emerg]" in line)
