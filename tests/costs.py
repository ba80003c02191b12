"""What tests cost: `--costs FILE` writes the CPU seconds of each, the dearest first, with those of programs that it started and that ended.

`python -m tests.costs FILE` makes tests/slow.txt of it: the tests that `make quick` leaves out beside those that are marked.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

LIST = Path(__file__).parent / "slow.txt"
# CPU seconds from which on a test is slow, with its parameters on average. Of each file the cheapest stay all the same, so many of its
# tests, if they are no dearer than that.
SLOW_FROM, STAYING, STAYING_BELOW = 0.04, 1 / 5, 0.2


def read_slow() -> frozenset[str]:
    """The names of tests, without parameters, that were found to be slow."""
    return frozenset(LIST.read_text().split())


def _spent() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Costs:
    """A plugin: the cost of a test goes with its report from the process that ran it (a worker of pytest-xdist's) to the first."""

    def __init__(self, path: Path, *, is_worker: bool) -> None:
        self._path, self._is_worker, self._before = path, is_worker, 0.0
        self._costs: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._before = _spent()
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> None:
        now = _spent()
        item.user_properties.append(("cpu", now - self._before))
        self._before = now

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self._costs[report.nodeid] = sum(spent for name, spent in report.user_properties if name == "cpu")  # type: ignore[misc]

    def pytest_sessionfinish(self) -> None:
        if self._is_worker:
            return
        dearest = sorted(self._costs.items(), key=lambda cost: -cost[1])
        self._path.write_text("".join(f"{spent:.2f} {name}\n" for name, spent in dearest))


def main() -> None:
    """Make the list anew."""
    costs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in Path(sys.argv[1]).read_text().splitlines():
        spent, name = line.split(" ", 1)
        costs[name.partition("::")[0]][name.partition("[")[0]].append(float(spent))
    slow = []
    for tests in costs.values():
        cheapest = sorted((sum(spent) / len(spent), name) for name, spent in tests.items())
        staying = STAYING * len(cheapest)
        slow += [
            name
            for place, (cost, name) in enumerate(cheapest)
            if cost >= (STAYING_BELOW if place < staying else SLOW_FROM)
        ]
    slow.sort()
    LIST.write_text("\n".join(slow) + "\n")


if __name__ == "__main__":
    main()
