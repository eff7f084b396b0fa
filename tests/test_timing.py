import pytest

from reluctant.timing import in_turns, interleaved


def test_ways_take_turns_in_changing_order_and_get_rising_numbers() -> None:
    seen: list[tuple[str, int]] = []
    rounds_done: list[int] = []
    seconds = interleaved(
        {name: lambda number, name=name: seen.append((name, number)) for name in "abc"},
        rounds=4,
        settle=0.0,
        turn=0.0,
        on_round=lambda: rounds_done.append(len(seen)),
    )
    rounds = [seen[k : k + 6] for k in range(0, 24, 6)]
    orders = ["".join(name for name, _ in each[::2]) for each in rounds]
    assert all(each[k][0] == each[k + 1][0] for each in rounds for k in (0, 2, 4))
    assert all(sorted(order) == [*"abc"] for order in orders)
    assert len(set(orders)) > 1
    for way in "abc":
        numbers = [number for name, number in seen if name == way]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) == 4 * 2  # one call to settle, one that is timed
    assert rounds_done == [6, 12, 18, 24]
    assert seconds.keys() == {*"abc"}
    assert all(value > 0 for value in seconds.values())


def test_long_calls_need_not_settle() -> None:
    seen: list[int] = []
    interleaved({"a": seen.append}, rounds=3, settle=None, turn=0.0)
    assert seen == [1, 2, 3]


def test_a_turn_settles_for_a_whole_cycle() -> None:
    seen: list[int] = []
    interleaved({"a": seen.append}, rounds=2, settle=0.0, turn=0.0, cycle=5)
    assert seen == list(range(1, 2 * (5 + 1) + 1))


def test_no_round_is_begun_when_time_is_up_but_three_there_are() -> None:
    rounds: list[None] = []
    interleaved(
        {"a": lambda number: None},
        rounds=9,
        settle=0.0,
        turn=0.0,
        budget=0.0,
        on_round=lambda: rounds.append(None),
    )
    assert len(rounds) == 3


def test_what_spins_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("reluctant.timing.sleep", slept.append)
    ways = {name: lambda number: None for name in "ab"}
    interleaved(ways, rounds=2, settle=0.0, turn=0.0, rest={"b": 0.5})
    assert sorted(slept) == [0.0, 0.0, 0.5, 0.5]


def test_all_times_are_there() -> None:
    times = in_turns({name: lambda _: None for name in "ab"}, rounds=3, settle=0.0, turn=0.0)
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}
