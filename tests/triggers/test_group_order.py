"""Order within groups, for brokers that deliver more of a group than may be lent."""

from triggers.sources.group_order import GroupOrder


def order(*deliveries: tuple[str, int]) -> GroupOrder[tuple[str, int]]:
    made: GroupOrder[tuple[str, int]] = GroupOrder(lambda delivery: delivery[1])
    for delivery in deliveries:
        made.add(delivery[0], delivery)
    return made


def test_one_of_each_group_is_lent():
    held = order(("a", 1), ("a", 2), ("b", 3))
    assert held.take(10) == [("a", 1), ("b", 3)]
    assert held.take(10) == []
    held.settle("a", 1)
    assert held.take(10) == [("a", 2)]


def test_one_that_comes_again_takes_its_old_place():
    held = order(("a", 1), ("a", 2))
    held.take(1)
    held.add("a", ("a", 1))
    assert held.take(10) == [("a", 1)]
    held.settle("a", 1)
    assert held.take(10) == [("a", 2)]


def test_a_second_delivery_of_one_that_waits_replaces_it():
    held = order(("a", 1), ("a", 2), ("a", 2))
    assert len(held) == 2


def test_settling_an_older_delivery_does_not_free_the_group():
    held = order(("a", 1), ("a", 2), ("a", 3))
    held.take(1)
    held.settle("a", 1)
    held.take(1)
    held.settle("a", 1)
    assert held.take(1) == []


def test_every_group_has_its_turn():
    held = order(*((group, number) for number in range(3) for group in "abc"))
    seen = []
    for _ in range(9):
        [(group, number)] = held.take(1)
        seen.append(group)
        held.settle(group, number)
    assert sorted(seen[:3]) == ["a", "b", "c"]


def test_what_is_no_longer_ours_is_forgotten():
    held = order(("a", 1), ("b", 2))
    held.drop(lambda delivery: delivery[0] == "a")
    assert held.take(10) == [("b", 2)]
