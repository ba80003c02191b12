"""Which containers a visit looks at whole: what has changed, and one whose turn it is."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from containers.looks import MOST_CHANGED, REST_EVERY, Looks, Seen


def many(number: int) -> dict[int, Seen]:
    return {pk: Seen(f"id{pk}", "running", "a") for pk in range(1, number + 1)}


def test_each_has_its_turn_and_no_visit_looks_at_more_than_one_when_nothing_happens() -> None:
    for number in (1, 30, 100):
        looks = Looks()
        chosen = [looks.choose(many(number)) for _visit in range(number)]
        assert sorted(chosen) == [[pk] for pk in range(1, number + 1)]


def test_what_changed_is_looked_at_once_and_at_once() -> None:
    looks, seen = Looks(), many(30)
    looks.choose(seen)
    for change in ({"container_id": "other"}, {"state": "exited"}, {"epoch": "b"}):
        pk = 7
        seen = {**seen, pk: replace(seen[pk], **change)}
        assert pk in looks.choose(seen)
        assert sum(pk in looks.choose(seen) for _visit in range(29)) == 1


def test_new_one_is_looked_at_and_one_that_came_back_too() -> None:
    looks = Looks()
    looks.choose(many(3))
    assert 4 in looks.choose(many(4))
    looks.choose(many(3))
    assert 4 in looks.choose(many(4))
    assert looks.choose({}) == []
    assert looks.choose(many(1)) == [1]


def test_start_that_nobody_may_know_is_no_change() -> None:
    looks, seen = Looks(), many(20)
    looks.choose(seen)
    hidden = {pk: replace(one, epoch="") for pk, one in seen.items()}
    assert len(looks.choose(hidden)) == 1
    assert len(looks.choose(seen)) == 1


@given(st.lists(st.dictionaries(st.integers(1, 40), st.sampled_from("abc"), max_size=40), min_size=1))
def test_everything_that_changed_is_looked_at_in_the_end(rounds: list[dict[int, str]]) -> None:
    looks = Looks()
    right: dict[int, str] | None = (
        None  # as each was when it was looked at last, at first by its labels alone
    )
    for states in [*rounds, *[rounds[-1]] * 6]:
        chosen = looks.choose({pk: Seen(f"id{pk}", state) for pk, state in states.items()})
        assert len(chosen) <= MOST_CHANGED + 1
        looked_at = {pk: states[pk] for pk in chosen}
        before = states if right is None else right
        right = {pk: state for pk, state in before.items() if pk in states} | looked_at
    assert right == rounds[-1]


def test_rest_is_looked_at_first_when_something_is_other_and_in_its_turn() -> None:
    looks = Looks()
    assert looks.is_rest_due("a")
    quiet = [looks.is_rest_due("a") for _visit in range(3 * REST_EVERY)]
    assert quiet.count(True) == 3
    first = quiet.index(True)
    assert quiet[first::REST_EVERY] == [True] * 3
    assert looks.is_rest_due("b")
