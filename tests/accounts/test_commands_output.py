import json
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import translation

from derpmgmt.lib.commands import PanelCommand

ROWS = [
    {"name": "上海 2", "ready": True, "at": datetime(2026, 12, 15, 13, 30, tzinfo=UTC), "pk": 1},
    {"name": "gz-1", "ready": False, "at": None, "pk": 12},
]
COLUMNS = {"name": "名称", "ready": "ready", "at": "since"}


class Listing(PanelCommand):
    def handle(self, *args: object, **options: object) -> None:
        self.say("asking")
        self.emit(ROWS, COLUMNS)


def test_table_lines_up_when_cells_are_chinese() -> None:
    out, err = StringIO(), StringIO()
    with translation.override("en"):
        call_command(Listing(), stdout=out, stderr=err)
    assert out.getvalue().splitlines() == [
        "名称    ready  since",
        "上海 2  yes    2026-12-15 21:30",
        "gz-1    no     –",
    ]
    assert err.getvalue() == "asking\n"


def test_json_is_whole_rows_when_asked_for() -> None:
    out = StringIO()
    call_command(Listing(), "--json", stdout=out)
    assert json.loads(out.getvalue()) == [
        {"name": "上海 2", "ready": True, "at": "2026-12-15T13:30:00Z", "pk": 1},
        {"name": "gz-1", "ready": False, "at": None, "pk": 12},
    ]


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_empty_list_is_said_when_there_are_no_rows(flag: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROWS", [])
    out = StringIO()
    call_command(Listing(), *flag, stdout=out)
    assert out.getvalue().strip() == "[]" if flag else len(out.getvalue().splitlines()) == 2
