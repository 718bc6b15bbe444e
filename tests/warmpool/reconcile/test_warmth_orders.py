"""Which replica is ordered to which warmth."""

from hypothesis import given
from hypothesis import strategies as st

from warmpool.domain.field_types import WARMTHS
from warmpool.domain.floor import Floor
from warmpool.domain.replica_warmth import ReplicaWarmth
from warmpool.reconcile.warmth_orders import orders_for

floors = st.lists(st.integers(0, 4), min_size=3, max_size=3).map(lambda counts: Floor(*sorted(counts)))
rests = st.lists(st.sampled_from(WARMTHS), max_size=6)


def after(rest, orders):
    changed = {order.replica.name: order.warmth for order in orders}
    return [changed.get(f"r{index}", warmth) for index, warmth in enumerate(rest)]


def replicas(rest):
    return [ReplicaWarmth(f"r{index}", f"http://{index}", warmth) for index, warmth in enumerate(rest)]


@given(rests, floors)
def test_enough_replicas_make_up_the_floor_and_then_nothing_more_is_ordered(rest, floor):
    orders = orders_for(replicas(rest), floor)
    result = after(rest, orders)
    if len(rest) >= floor.replicas:
        for warmth, count in floor.by_warmth().items():
            assert result.count(warmth) >= count
        assert orders_for(replicas(result), floor) == ()
    assert len(orders) <= floor.replicas


@given(rests, floors)
def test_nobody_is_ordered_to_where_he_is(rest, floor):
    assert all(order.replica.warmth != order.warmth for order in orders_for(replicas(rest), floor))


def test_too_few_replicas_are_made_hot_first():
    assert after(["standby"], orders_for(replicas(["standby"]), Floor(1, 1, 3))) == ["hot"]


def test_replicas_beyond_the_floor_are_left_be():
    assert orders_for(replicas(["hot", "hot", "standby"]), Floor.of(1, "standby")) == ()
