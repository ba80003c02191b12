"""Which servers and ports a customer's relays get."""

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from containers.placement import ServerView, choose_port, choose_servers

REGIONS = ("beijing", "shanghai", "shenzhen", "chengdu")


def server(pk: int, region: str = "shanghai", **changes: object) -> ServerView:
    values = {"capacity": 10, "relays": 0, "free_derp_ports": 10, "free_stun_ports": 10} | changes
    return ServerView(pk=pk, region=region, **values)


@st.composite
def fleets(draw: st.DrawFn) -> list[ServerView]:
    count = draw(st.integers(0, 9))
    return [
        ServerView(
            pk=pk,
            region=draw(st.sampled_from(REGIONS)),
            capacity=draw(st.integers(0, 3)),
            relays=draw(st.integers(0, 3)),
            free_derp_ports=draw(st.integers(0, 2)),
            free_stun_ports=draw(st.integers(0, 2)),
            load=draw(st.none() | st.floats(0, 1.5)),
            memory=draw(st.none() | st.floats(0, 1)),
            more_memory=0.1,
            traffic=draw(st.none() | st.floats(0, 1.5)),
            customers=draw(st.integers(0, 2)),
            customer_capacity=draw(st.none() | st.integers(0, 3)),
        )
        for pk in draw(st.permutations(range(count)))
    ]


pks = st.sets(st.integers(0, 9))


@given(fleets(), st.integers(0, 4), pks, st.none() | pks, st.lists(st.sampled_from(REGIONS), max_size=3))
def test_choice_keeps_every_limit_when_played_at_random(fleet, wanted, taken, bound, used):
    chosen = choose_servers(fleet, wanted, taken=taken, bound=bound, regions_used=used)

    allowed = {
        view.pk: view
        for view in fleet
        if view.relays < view.capacity
        and (view.load is None or view.load < 1)
        and (view.memory is None or view.memory + 0.1 <= 1)
        and (view.traffic is None or view.traffic < 1)
        and (view.customer_capacity is None or view.customers < view.customer_capacity)
        and view.free_derp_ports
        and view.free_stun_ports
        and view.pk not in taken
        and (bound is None or view.pk in bound)
    }
    assert len(chosen) == len(set(chosen)) == min(wanted, len(allowed))
    assert set(chosen) <= set(allowed)


@given(fleets(), st.integers(0, 4), st.lists(st.sampled_from(REGIONS), max_size=3))
def test_choice_spreads_as_far_as_any_other_when_played_at_random(fleet, wanted, used):
    def crowding(views: tuple[ServerView, ...]) -> tuple[int, int]:
        """Fewest shared regions is best: pairs of relays in one region, then regions that are left out."""
        counts = Counter(used) + Counter(view.region for view in views)
        return sum(count * (count - 1) // 2 for count in counts.values()), -len(counts)

    by_pk = {view.pk: view for view in fleet}
    chosen = tuple(by_pk[pk] for pk in choose_servers(fleet, wanted, regions_used=used))
    roomy = [view for view in fleet if view.has_room]
    assert crowding(chosen) == min(crowding(group) for group in combinations(roomy, len(chosen)))


@given(fleets(), st.integers(0, 4), st.randoms())
def test_choice_is_the_same_when_servers_come_in_another_order(fleet, wanted, random):
    shuffled = list(fleet)
    random.shuffle(shuffled)
    assert choose_servers(shuffled, wanted) == choose_servers(fleet, wanted)


def test_emptier_share_wins_when_regions_are_equal():
    large, small = server(1, capacity=100, relays=20), server(2, capacity=4, relays=1)
    assert choose_servers([small, large], 1) == [1]


def test_new_region_wins_when_its_server_is_fuller():
    full = server(2, "beijing", relays=9)
    assert choose_servers([server(1), full], 1, regions_used=["shanghai"]) == [2]


def test_what_is_scarcest_counts_and_the_unknown_says_nothing():
    fleet = [
        server(1, load=0.9),
        server(2, memory=0.5, traffic=0.2),
        server(3, traffic=0.6),
        server(4, relays=1),
        server(5),
        server(6, customers=3, customer_capacity=4),
    ]
    assert choose_servers(fleet, 6) == [5, 4, 2, 3, 6, 1]


def test_one_more_relay_takes_its_share_of_everything():
    view = server(1, memory=0.5, more_memory=0.3, customer_capacity=9, customers=1)
    fuller = view.with_one_more()
    assert (fuller.memory, fuller.customers, fuller.relays) == (0.8, 2, 1)
    assert view.has_room
    assert not fuller.has_room
    assert not server(1, customer_capacity=1, customers=1).has_room


def test_lowest_free_port_is_chosen_when_some_are_taken():
    assert choose_port(range(30000, 30010), {30000, 30001, 30005}) == 30002


def test_no_port_is_chosen_when_the_range_is_used_up():
    assert choose_port(range(30000, 30002), [30001, 30000]) is None
