"""What people call the actions of the activity log and the kinds of notices: each room declares its own in its `words.py`.

They are collected at start (`derpmgmt/apps.py`), so that no room knows the words of those above it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.functional import Promise


@dataclass(frozen=True)
class Kind:
    """A kind of notice; its texts are in `templates/notices/`.

    A farewell goes to closed and banned people too. Text messages cost the operator money: only what a person must not miss
    goes by them.
    """

    name: str | Promise
    is_farewell: bool = False
    by_sms: bool = False


ACTIONS: dict[str, str | Promise] = {}
NOTICES: dict[str, Kind] = {}


def declare(*, actions: Mapping[str, str | Promise], notices: Mapping[str, Kind] | None = None) -> None:
    """Add a room's words; raises ValueError for what another room has declared."""
    if doubled := (ACTIONS.keys() & actions.keys()) | (NOTICES.keys() & (notices or {}).keys()):
        raise ValueError(f"declared twice: {', '.join(sorted(doubled))}")
    ACTIONS.update(actions)
    NOTICES.update(notices or {})


def farewells() -> frozenset[str]:
    """The kinds that go to closed and banned people too."""
    return frozenset(name for name, kind in NOTICES.items() if kind.is_farewell)
