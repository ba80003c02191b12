"""What a rental's relays should become, as rules on plain data."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.decisions import (
    BringBack,
    Create,
    GiveUp,
    GoneView,
    Obstacle,
    Plan,
    RelayView,
    State,
    decide,
    decide_move,
    decide_release,
    decide_successor,
)
from containers.placement import ServerView

REGIONS = ("beijing", "shanghai", "shenzhen")


def server(pk: int, region: str = "", **changes: int) -> ServerView:
    values = {"capacity": 10, "relays": 0, "free_derp_ports": 1, "free_stun_ports": 1} | changes
    return ServerView(pk=pk, region=region or REGIONS[pk % 3], **values)


def relay(pk: int, at: int, slot: int | None = None, **changes: object) -> RelayView:
    return RelayView(pk, at, REGIONS[at % 3], slot, **changes)  # type: ignore[arg-type]


def failed(pk: int, at: int, slot: int | None, code: str = "disk_full", **changes: object) -> RelayView:
    return relay(pk, at, slot, status="failed", is_proven=False, failure_code=code, **changes)


def gone(pk: int, at: int, slot: int, **changes: bool) -> GoneView:
    return GoneView(pk, at, REGIONS[at % 3], slot, **changes)


def servers(*pks: int) -> tuple[ServerView, ...]:
    return tuple(server(pk) for pk in pks)


THREE = (relay(1, 1, 1), relay(2, 2, 2), relay(3, 3, 3))
FOUR_SERVERS = servers(1, 2, 3, 4)
RIGHTS = State(has_rights=True, relays=THREE, servers=FOUR_SERVERS)
DONE = Plan((), is_settled=True)


def with_first(first: RelayView, **changes: object) -> State:
    """Two relays that run, and another in place 1."""
    return replace(RIGHTS, relays=(first, *THREE[1:]), **changes)  # type: ignore[arg-type]


CASES: dict[str, tuple[State, Plan]] = {
    "nothing is to be done where three relays run": (RIGHTS, DONE),
    "without rights all go, to come back": (
        replace(RIGHTS, has_rights=False, relays=(relay(9, 4, status="removing"), *THREE)),
        Plan((GiveUp(1, returns=True), GiveUp(2, returns=True), GiveUp(3, returns=True)), is_settled=True),
    ),
    "three are made in three regions": (
        State(has_rights=True, servers=servers(1, 2, 3, 4)),
        Plan((Create(1, slot=1), Create(2, slot=2), Create(3, slot=3)), is_settled=True),
    ),
    "as many are made as there are servers": (
        State(has_rights=True, servers=servers(1, 2)),
        Plan((Create(1, slot=1), Create(2, slot=2)), is_settled=False),
    ),
    "one that fails after it ran stays": (
        with_first(relay(1, 1, 1, status="failed", failure_code="disk_full")),
        DONE,
    ),
    "one that never came up goes elsewhere": (
        with_first(failed(1, 1, 1), avoided=frozenset({1})),
        Plan((GiveUp(1), Create(4, slot=1)), is_settled=True),
    ),
    "one that never came up stays where there is nowhere to go": (
        with_first(failed(1, 1, 1), avoided=frozenset({1}), servers=servers(1, 2, 3)),
        DONE,
    ),
    "one whose server rests goes elsewhere": (
        with_first(
            relay(1, 1, 1, status="planned", is_proven=False, is_resting=True), servers=servers(2, 3, 4)
        ),
        Plan((GiveUp(1), Create(4, slot=1)), is_settled=True),
    ),
    "one that ran stays while its server rests": (with_first(relay(1, 1, 1, is_resting=True)), DONE),
    "one whose port was taken gets another on its server": (
        with_first(failed(1, 1, 1, "port_taken"), servers=servers(1, 2, 3)),
        Plan((GiveUp(1), Create(1, slot=1)), is_settled=True),
    ),
    "one that fails for a reason of the panel's stays": (with_first(failed(1, 1, 1, "no_image")), DONE),
    "an empty place comes before one that is broken": (
        replace(
            RIGHTS, relays=(failed(1, 1, 1), relay(2, 2, 2)), avoided=frozenset({1}), servers=servers(1, 2, 4)
        ),
        Plan((Create(4, slot=3),), is_settled=True),
    ),
    "of two broken ones that goes whose own server will do": (
        replace(
            RIGHTS,
            relays=(failed(1, 1, 1), failed(2, 2, 2, "port_taken"), relay(3, 3, 3)),
            avoided=frozenset({1}),
            servers=servers(1, 2, 3),
        ),
        Plan((GiveUp(2), Create(2, slot=2)), is_settled=True),
    ),
    "those come back that went with the rights": (
        State(
            has_rights=True, gone=(gone(3, 3, 3), gone(2, 2, 2), gone(1, 1, 1)), servers=servers(1, 2, 3, 4)
        ),
        Plan((BringBack(3, 3), BringBack(2, 2), BringBack(1, 1)), is_settled=True),
    ),
    "another takes the place of one that cannot come back": (
        replace(RIGHTS, relays=THREE[1:], gone=(gone(1, 1, 1, is_possible=False),), servers=servers(2, 3, 4)),
        Plan((Create(4, slot=1),), is_settled=True),
    ),
    "none comes back to a server that is not usable": (
        replace(RIGHTS, relays=THREE[1:], gone=(gone(1, 1, 1),), servers=servers(2, 3, 4)),
        Plan((Create(4, slot=1),), is_settled=True),
    ),
    "none comes back to a server that is not bought": (
        replace(RIGHTS, relays=THREE[1:], gone=(gone(1, 1, 1),), bound=frozenset({2, 3, 4})),
        Plan((Create(4, slot=1),), is_settled=True),
    ),
    "none comes back to a place, or beside a relay, that another has": (
        replace(RIGHTS, relays=THREE[1:], gone=(gone(8, 4, 2), gone(7, 3, 1), gone(1, 1, 1))),
        Plan((BringBack(1, 1),), is_settled=True),
    ),
    "the last holder of a place comes back": (
        replace(RIGHTS, relays=THREE[1:], gone=(gone(8, 4, 1), gone(1, 1, 1))),
        Plan((BringBack(8, 1),), is_settled=True),
    ),
    "relays elsewhere get successors on what is bound": (
        replace(RIGHTS, bound=frozenset({4, 5, 6}), servers=servers(1, 2, 3, 4, 5, 6)),
        Plan((Create(4, replaces=1), Create(5, replaces=2), Create(6, replaces=3)), is_settled=True),
    ),
    "only those move that stand elsewhere": (
        replace(RIGHTS, bound=frozenset({2, 3, 4})),
        Plan((Create(4, replaces=1),), is_settled=True),
    ),
    "all stay while fewer than three bound servers will do": (
        replace(RIGHTS, bound=frozenset({4, 5, 6}), servers=servers(1, 2, 3, 4, 5)),
        Plan((), is_settled=False),
    ),
    "all stay while the server of one that need not move is not usable": (
        replace(RIGHTS, bound=frozenset({3, 4, 5}), servers=servers(1, 2, 4, 5)),
        Plan((), is_settled=False),
    ),
    "one that carried nothing yet goes elsewhere without a successor": (
        with_first(relay(1, 1, 1, status="planned", is_proven=False), bound=frozenset({2, 3, 4})),
        Plan((GiveUp(1), Create(4, slot=1)), is_settled=True),
    ),
    "a successor in the making is waited for": (
        replace(
            RIGHTS,
            relays=(*THREE, relay(9, 4, status="planned", is_proven=False, replaces=1)),
            bound=frozenset({2, 3, 4}),
        ),
        DONE,
    ),
    "a successor that failed goes, and the next is made elsewhere": (
        replace(
            RIGHTS,
            relays=(*THREE, failed(9, 4, None, replaces=1)),
            bound=frozenset({2, 3, 4, 5}),
            avoided=frozenset({4}),
            servers=servers(1, 2, 3, 4, 5),
        ),
        Plan((GiveUp(9), Create(5, replaces=1)), is_settled=True),
    ),
    "a successor goes that may not stand there, or whose place is no more": (
        replace(
            RIGHTS,
            relays=(
                *THREE,
                relay(8, 4, status="planned", is_proven=False, replaces=1),
                relay(9, 3, status="planned", is_proven=False, replaces=77),
            ),
            bound=frozenset({1, 2, 3}),
        ),
        Plan((GiveUp(8), GiveUp(9)), is_settled=True),
    ),
    "one that retires, or goes already, is left alone": (
        replace(
            RIGHTS,
            relays=(*THREE, relay(8, 4, is_retiring=True), relay(9, 4, status="removing", replaces=1)),
        ),
        DONE,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_decided(case: str) -> None:
    state, plan = CASES[case]
    assert decide(state) == plan


SUCCESSORS: dict[str, tuple[State, Create | None]] = {
    "on the same server": (RIGHTS, Create(1, replaces=1)),
    "on another where its own is full": (
        replace(RIGHTS, servers=(server(1, relays=10), *servers(2, 3, 4))),
        Create(4, replaces=1),
    ),
    "on none of the customer's other servers": (
        replace(RIGHTS, servers=(server(1, relays=10), *servers(2, 3))),
        None,
    ),
    "not where it is not bought": (
        replace(RIGHTS, bound=frozenset({1, 2, 3}), servers=servers(2, 3, 4)),
        None,
    ),
    "even where a relay failed lately": (replace(RIGHTS, avoided=frozenset({1})), Create(1, replaces=1)),
    "not twice": (replace(RIGHTS, relays=(*THREE, relay(9, 4, status="planned", replaces=1))), None),
    "not without rights": (replace(RIGHTS, has_rights=False), None),
    "not of one that does not run": (with_first(relay(1, 1, 1, status="failed")), None),
    "not of one that retires": (with_first(relay(1, 1, is_retiring=True)), None),
    "not of one that is gone": (replace(RIGHTS, relays=THREE[1:]), None),
}


@pytest.mark.parametrize("case", SUCCESSORS)
def test_which_successor_a_relay_gets(case: str) -> None:
    state, successor = SUCCESSORS[case]
    assert decide_successor(state, 1) == successor


def moving(pk: int, at: int, replaces: int) -> RelayView:
    return relay(pk, at, status="planned", is_proven=False, replaces=replaces)


SAME_REGION = replace(
    RIGHTS, relays=(relay(1, 1, 1), relay(2, 4, 2), relay(3, 3, 3)), servers=servers(1, 2, 3, 4)
)

ELSEWHERE = replace(RIGHTS, servers=(*servers(1, 2, 3), server(4, "chengdu")))

# Onto which server which relay is moved: state, server, relay (None: the one that can best be spared).
MOVES: dict[str, tuple[State, int, int | None, tuple[object, ...] | Obstacle]] = {
    "a successor of the last place, where all are as good": (ELSEWHERE, 4, None, (Create(4, replaces=3),)),
    "of the one whose region it stands in": (RIGHTS, 4, None, (Create(4, replaces=1),)),
    "of one whose region another has as well": (SAME_REGION, 2, None, (Create(2, replaces=2),)),
    "of one that failed before one that runs": (
        with_first(relay(1, 1, 1, status="failed")), 4, None, (Create(4, replaces=1),),
    ),
    "of one whose server is not usable": (replace(RIGHTS, servers=servers(1, 3, 4)), 4, None, (Create(4, replaces=2),)),
    "of one that may not stand where it does": (
        replace(RIGHTS, bound=frozenset({2, 3, 4})), 4, None, (Create(4, replaces=1),),
    ),
    "instead of one that never carried a packet": (
        with_first(failed(1, 1, 1)), 4, None, (GiveUp(1), Create(4, slot=1)),
    ),
    "into an empty place first": (replace(RIGHTS, relays=THREE[1:]), 4, None, (Create(4, slot=1),)),
    "of the one that is named": (RIGHTS, 4, 2, (Create(4, replaces=2),)),
    "of the one that is named, though a place is empty": (
        replace(RIGHTS, relays=THREE[1:]), 4, 2, (Create(4, replaces=2),),
    ),
    "of one that nothing comes in place of yet": (
        replace(ELSEWHERE, relays=(*THREE, moving(9, 5, 3))), 4, None, (Create(4, replaces=2),),
    ),
    "even where a relay failed lately": (replace(ELSEWHERE, avoided=frozenset({4})), 4, None, (Create(4, replaces=3),)),
    "beside an old one that retires there": (
        replace(ELSEWHERE, relays=(*THREE, relay(9, 4, is_retiring=True))), 4, None, (Create(4, replaces=3),),
    ),
    "not without rights": (replace(RIGHTS, has_rights=False), 4, None, Obstacle.NO_RIGHTS),
    "not where another stands": (RIGHTS, 2, None, Obstacle.STANDS_THERE),
    "not where a successor comes up": (
        replace(RIGHTS, relays=(*THREE, moving(9, 4, 3))), 4, None, Obstacle.STANDS_THERE,
    ),
    "not where it is not usable": (RIGHTS, 7, None, Obstacle.NOT_USABLE),
    "not where it is not bought": (replace(RIGHTS, bound=frozenset({1, 2, 3})), 4, None, Obstacle.NOT_BOUGHT),
    "not where there is no room": (
        replace(RIGHTS, servers=(*servers(1, 2, 3), server(4, relays=10))), 4, None, Obstacle.FULL,
    ),
    "not where no port is free": (
        replace(RIGHTS, servers=(*servers(1, 2, 3), server(4, free_stun_ports=0))), 4, None, Obstacle.FULL,
    ),
    "not one that another comes in place of": (
        replace(RIGHTS, relays=(*THREE, moving(9, 5, 2))), 4, 2, Obstacle.HAS_SUCCESSOR,
    ),
    "not one that is no longer there": (RIGHTS, 4, 77, Obstacle.GONE),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVES)
def test_what_is_moved_onto_a_server(case: str) -> None:
    state, onto, named, found = MOVES[case]
    assert decide_move(state, onto, named) == found


RELEASES: dict[str, tuple[State, int, tuple[object, ...] | Obstacle]] = {
    "another comes elsewhere": (RIGHTS, 1, (Create(4, replaces=1),)),
    "on its own server where there is no other": (replace(RIGHTS, servers=servers(1, 2, 3)), 1, (Create(1, replaces=1),)),
    "where one failed lately only if there is no other": (
        replace(RIGHTS, servers=servers(1, 2, 3, 4, 5), avoided=frozenset({4})), 1, (Create(5, replaces=1),),
    ),
    "elsewhere, though one failed there lately": (replace(RIGHTS, avoided=frozenset({4})), 1, (Create(4, replaces=1),)),
    "at once, where it never carried a packet": (with_first(failed(1, 1, 1)), 1, (GiveUp(1), Create(4, slot=1))),
    "one that comes up just goes": (replace(RIGHTS, relays=(*THREE, moving(9, 4, 2))), 9, (GiveUp(9),)),
    "not where no server has room": (replace(RIGHTS, servers=servers(2, 3)), 1, Obstacle.NO_ROOM),
    "not onto what is not bought": (
        replace(RIGHTS, bound=frozenset({2, 3}), servers=servers(1, 2, 3, 4)), 1, Obstacle.NO_ROOM,
    ),
    "not twice": (replace(RIGHTS, relays=(*THREE, moving(9, 4, 2))), 2, Obstacle.HAS_SUCCESSOR),
    "not one that retires": (replace(RIGHTS, relays=(*THREE, relay(9, 4, is_retiring=True))), 9, Obstacle.GONE),
    "not one that goes": (replace(RIGHTS, relays=(*THREE, relay(9, 4, status="removing"))), 9, Obstacle.GONE),
    "not without rights": (replace(RIGHTS, has_rights=False), 1, Obstacle.NO_RIGHTS),
}  # fmt: skip


@pytest.mark.parametrize("case", RELEASES)
def test_what_comes_for_one_that_is_given_up(case: str) -> None:
    state, given_up, found = RELEASES[case]
    assert decide_release(state, given_up) == found


# What holds in every state


@st.composite
def states(draw: st.DrawFn) -> State:
    pks = range(1, 8)
    at = draw(st.permutations(pks))
    relays = []
    for slot in draw(st.sets(st.integers(1, 3))):
        kind = draw(st.sampled_from(["running", "planned", "resting", "failed", "disk_full", "port_taken"]))
        proven = kind in ("running", "failed")
        relays.append(
            relay(
                slot,
                at[slot],
                slot,
                status="planned" if kind == "resting" else kind if proven or kind == "planned" else "failed",
                is_proven=proven,
                is_resting=kind == "resting",
                failure_code="" if proven else kind,
            )
        )
    # Only what works gets a successor, and may have lost its place since.
    working = [view.pk for view in relays if view.is_proven] + [77, 78]
    for number, replaces in enumerate(draw(st.permutations(working))[: draw(st.integers(0, 2))]):
        status = draw(st.sampled_from(["planned", "failed"]))
        relays.append(relay(10 + number, at[4 + number], status=status, is_proven=False, replaces=replaces))
    subset = st.frozensets(st.sampled_from(pks))
    return State(
        has_rights=True,
        relays=tuple(relays),
        gone=tuple(
            gone(20 + pk, pk, draw(st.integers(1, 3)))
            for pk in draw(st.sets(st.sampled_from(pks), max_size=3))
        ),
        servers=servers(*draw(subset)),
        bound=draw(st.none() | subset),
        avoided=draw(subset),
    )


def carried_out(state: State, plan: Plan) -> State:
    """The state once the rows are written and nothing else has happened."""
    relays = {view.pk: view for view in state.relays}
    back = {view.pk: view for view in state.gone}
    for number, action in enumerate(plan.actions, start=max([99, *relays]) + 1):
        match action:
            case GiveUp():
                relays[action.relay] = replace(relays[action.relay], slot=None, status="removing")
            case BringBack():
                view = back.pop(action.relay)
                relays[view.pk] = relay(view.pk, view.server, action.slot, status="planned", is_proven=False)
            case Create():
                # Whoever had the place does not come back to it.
                back = {pk: view for pk, view in back.items() if view.slot != action.slot}
                relays[number] = relay(
                    number,
                    action.server,
                    action.slot,
                    status="planned",
                    is_proven=False,
                    replaces=action.replaces,
                )
    return replace(state, relays=tuple(relays.values()), gone=tuple(back.values()))


@given(states())
def test_a_plan_keeps_every_limit_and_leaves_nothing_to_do(state: State) -> None:
    plan = decide(state)
    after = carried_out(state, plan)
    standing = [view for view in after.relays if view.status != "removing"]
    placed = [view for view in standing if view.slot is not None]
    assert len({view.slot for view in placed}) == len(placed) <= 3
    assert len({view.server for view in standing}) == len(standing)
    usable = {view.pk for view in state.servers}
    for action in plan.actions:
        if isinstance(action, Create):
            assert action.server in usable - state.avoided
            assert state.allows(action.server)
    # Nobody has fewer relays than before, and what once carried packets is never given up from its place.
    assert len(placed) >= sum(view.slot is not None for view in state.relays)
    proven = {view.pk for view in state.relays if view.slot is not None and view.is_proven}
    assert proven <= {view.pk for view in placed}
    assert decide(after).actions == ()


@given(states(), st.integers(1, 7), st.none() | st.integers(1, 3), st.integers(1, 11))
def test_no_move_leaves_a_customer_with_fewer_relays_and_no_plan_undoes_it(
    state: State, onto: int, named: int | None, given_up: int
) -> None:
    for found in (decide_move(state, onto, named), decide_release(state, given_up)):
        if isinstance(found, Obstacle):
            continue
        before = {view.slot for view in state.relays if view.slot is not None}
        after = carried_out(state, Plan(found, is_settled=True))
        standing = [view for view in after.relays if view.status != "removing"]
        assert before <= {view.slot for view in standing}
        proven = {view.pk for view in state.relays if view.slot is not None and view.is_proven}
        assert proven <= {view.pk for view in standing if view.slot is not None}
        made = {action.server for action in found if isinstance(action, Create)}
        assert all(state.allows(server) for server in made)
        assert made <= {view.pk for view in state.servers}
        # A plan goes on with what was made.
        planned = carried_out(after, decide(after))
        assert made <= {view.server for view in planned.relays if view.status != "removing"}
