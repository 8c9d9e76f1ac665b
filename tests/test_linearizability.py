"""The checker itself: a register and a counter whose histories are known to be, or not to be, linearizable."""

import random
from itertools import pairwise

import pytest

from tests.linearizability import NEVER, Operation, linearization

Call = tuple[str, int]
Step = tuple[Call, int | None, float, float]


class Register:
    def step(self, state: int, call: Call) -> tuple[int, int]:
        name, value = call
        return (value, value) if name == "write" else (state, state)


class Counter:
    def step(self, state: int, call: Call) -> tuple[int, int]:
        return state + 1, state + 1


def operations(*steps: Step) -> list[Operation[Call, int]]:
    return [
        Operation(call=call, result=result, invoked_at=invoked_at, returned_at=returned_at)
        for call, result, invoked_at, returned_at in steps
    ]


READ = ("read", 0)


def test_a_read_beside_a_write_may_see_either_value() -> None:
    for seen in (0, 1):
        history = operations((("write", 1), 1, 0.0, 3.0), (READ, seen, 1.0, 2.0))
        assert linearization(history, Register(), 0) is not None


def test_a_read_after_a_write_must_see_it() -> None:
    history = operations((("write", 1), 1, 0.0, 1.0), (READ, 0, 2.0, 3.0))

    assert linearization(history, Register(), 0) is None


def test_reads_may_not_go_backwards() -> None:
    history = operations((("write", 1), 1, 0.0, 9.0), (READ, 1, 1.0, 2.0), (READ, 0, 3.0, 4.0))

    assert linearization(history, Register(), 0) is None


def test_an_unanswered_write_may_have_happened_late_or_never() -> None:
    lost = (("write", 1), None, 0.0, NEVER)

    assert linearization(operations(lost, (READ, 0, 1.0, 2.0), (READ, 1, 3.0, 4.0)), Register(), 0) == [1, 0, 2]
    assert linearization(operations(lost, (READ, 0, 1.0, 2.0)), Register(), 0) == [1]
    assert linearization(operations(lost, (READ, 1, 1.0, 2.0), (READ, 0, 3.0, 4.0)), Register(), 0) is None


def test_an_unanswered_write_cannot_have_happened_before_it_was_made() -> None:
    history = operations((READ, 1, 0.0, 1.0), (("write", 1), None, 2.0, NEVER))

    assert linearization(history, Register(), 0) is None


def test_two_winners_of_one_number_and_a_call_carried_out_twice_are_found() -> None:
    one, two = (("add", 0), 1, 0.0, 5.0), (("add", 0), 2, 0.0, 5.0)

    assert linearization(operations(one, two), Counter(), 0) == [0, 1]
    assert linearization(operations(one, one), Counter(), 0) is None
    assert linearization(operations(one, (("add", 0), 3, 0.0, 5.0)), Counter(), 0) is None


@pytest.mark.parametrize("seed", range(20))
def test_a_history_made_from_an_order_is_explained_and_spoilt_by_one_wrong_result(seed: int) -> None:
    """Each call takes effect at a moment of its own, somewhere between its making and its return."""
    rng = random.Random(seed)
    state, history = 0, []
    for moment in range(200):
        state, result = Counter().step(state, ("add", 0))
        history.append((("add", 0), result, moment - rng.uniform(0, 6), moment + rng.uniform(0, 6)))
    rng.shuffle(history)

    order = linearization(operations(*history), Counter(), 0)
    spoilt = [*history[:-1], (history[-1][0], history[-1][1] + 1, *history[-1][2:])]

    assert order is not None
    assert all(history[before][1] < history[after][1] for before, after in pairwise(order))
    assert linearization(operations(*spoilt), Counter(), 0) is None
