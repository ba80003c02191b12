"""Charts: what was not measured is a gap, whatever the range; the file has the same figures as the drawing."""

import csv
import json
from decimal import Decimal
from io import StringIO

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from derpmgmt.lib.charts import RANGES, Chart, Line, Range, Unit, answer, asked_range, on_grid

# A wide window has no more points.
MOST_POINTS = 720


@pytest.mark.parametrize("chosen", RANGES.values(), ids=RANGES)
@given(now=st.integers(1_000_000_000, 4_000_000_000))
def test_a_range_ends_now_and_has_room_in_a_window(chosen: Range, now: int) -> None:
    moments = chosen.moments(now)
    assert len(moments) <= MOST_POINTS
    assert moments.start % chosen.step == 0
    assert now - chosen.step < moments[-1] <= now
    assert now - chosen.seconds < moments[0] <= now - chosen.seconds + chosen.step


def test_rows_find_their_moments_and_the_rest_are_gaps() -> None:
    moments = range(1000, 1050, 10)
    rows = [(999, 1, 1), (1000, 1, None), (1019, Decimal("2.5"), 3), (1040, 0, 5), (1050, 9, 9), (1041, 4, 6)]
    assert on_grid(rows, moments, 2) == [[1.0, 2.5, None, None, 4.0], [None, 3.0, None, None, 6.0]]
    assert on_grid([], moments, 1) == [[None] * 5]


def _draw(chosen: Range, now: int) -> Chart:
    moments = chosen.moments(now)[:3]
    return Chart(moments, [Line("上行", [1.5, None, 0]), Line("limit", [2, 2, 2])], Unit.BYTE_RATE)


def test_the_script_reads_gaps_as_null() -> None:
    said = json.loads(answer(RequestFactory().get("/", {"range": "1h"}), "x", _draw).content)
    assert said["unit"] == "byte_rate"
    assert said["zone"] == "Asia/Shanghai"
    assert said["lines"] == [
        {"label": "上行", "y": [1.5, None, 0], "isPeak": False},
        {"label": "limit", "y": [2, 2, 2], "isPeak": False},
    ]
    assert said["x"][1] - said["x"][0] == 15


def test_the_file_has_the_same_figures_and_a_name_that_every_browser_takes() -> None:
    response = answer(RequestFactory().get("/", {"format": "csv", "range": "7d"}), "上海-cpu", _draw)
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["Content-Disposition"].isascii()
    lines = list(csv.reader(StringIO(response.content.decode("utf-8-sig"))))
    assert lines[0] == ["time", "上行 (byte_rate)", "limit (byte_rate)"]
    assert [line[1:] for line in lines[1:]] == [["1.5", "2"], ["", "2"], ["0", "2"]]
    assert lines[1][0].endswith("+00:00")


@pytest.mark.parametrize("asked", ["", "1h ", "999d", "7D", "\x00"])
def test_a_range_that_there_is_not_is_the_usual_one(asked: str) -> None:
    assert asked_range(RequestFactory().get("/", {"range": asked})).name == "24h"
