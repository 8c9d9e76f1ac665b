"""Is what clients saw of a shared object what some order of their calls, one after another, would have shown them?

Wing & Gong's search (Testing and Verifying Concurrent Objects, 1993) with Lowe's memo of configurations (Testing for
linearizability, 2016): an order must keep every call that returned before another was made in front of it, and a
sequential model must give each call the result that its client saw. A call that was never answered may have happened
at any moment after it was made, or not at all.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)
Call = TypeVar("Call", contravariant=True)
Result = TypeVar("Result", covariant=True)
AnyCall = TypeVar("AnyCall")
AnyResult = TypeVar("AnyResult")

NEVER = math.inf


class Model(Protocol[State, Call, Result]):
    """The object as one client alone would find it."""

    def step(self, state: State, call: Call) -> tuple[State, Result]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation(Generic[AnyCall, AnyResult]):
    """`returned_at` is NEVER, and `result` None, of a call whose answer was lost. Times are of one monotonic clock."""

    call: AnyCall
    result: AnyResult | None
    invoked_at: float
    returned_at: float

    @property
    def is_answered(self) -> bool:
        return self.returned_at != NEVER


def linearization(
    operations: Sequence[Operation[AnyCall, AnyResult]],
    model: Model[State, AnyCall, AnyResult],
    initial: State,
) -> list[int] | None:
    """Positions of `operations` in an order that explains them, without the unanswered ones that need not have
    happened; None if there is no such order."""
    answered = sum(1 << place for place, operation in enumerate(operations) if operation.is_answered)
    seen: set[tuple[int, State]] = set()
    order: list[int] = []
    trail = [_next(operations, model, 0, initial)]
    done, states = 0, [initial]
    while True:
        if done & answered == answered:
            return order
        found = next(((place, state) for place, state in trail[-1] if (done | 1 << place, state) not in seen), None)
        if found is None:
            trail.pop()
            if not order:
                return None
            done ^= 1 << order.pop()
            states.pop()
            continue
        place, state = found
        done |= 1 << place
        seen.add((done, state))
        order.append(place)
        states.append(state)
        trail.append(_next(operations, model, done, state))


def _next(
    operations: Sequence[Operation[AnyCall, AnyResult]],
    model: Model[State, AnyCall, AnyResult],
    done: int,
    state: State,
) -> Iterator[tuple[int, State]]:
    """What may come next: calls made before any other that is still to come had returned, with results that fit."""
    left = [place for place in range(len(operations)) if not done >> place & 1]
    first_return = min((operations[place].returned_at for place in left), default=NEVER)
    for place in left:
        operation = operations[place]
        if operation.invoked_at > first_return:
            continue
        after, result = model.step(state, operation.call)
        if not operation.is_answered or result == operation.result:
            yield place, after
