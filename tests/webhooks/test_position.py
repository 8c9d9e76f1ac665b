"""Ids that come later than higher ones: PostgreSQL hands them out before their transactions commit."""

from hypothesis import given
from hypothesis import strategies as st

from control_plane.registry.outbox import Entry, Running
from control_plane.webhooks.position import Position


def entries(*ids: int) -> list[Entry]:
    return [Entry(outbox_id=outbox_id, ordering_key="home_feed", event="{}") for outbox_id in ids]


def look(position: Position, visible: set[int], *, oldest: int, following: int) -> tuple[set[int], Position]:
    found, after = position.look(
        lambda first, last: entries(*sorted(number for number in visible if first <= number <= last)),
        entries(*sorted(number for number in visible if number > position.read_to)),
        Running(oldest=oldest, next=following),
    )
    return {entry.outbox_id for entry in found}, after


def test_what_comes_in_order_leaves_no_hole() -> None:
    found, after = look(Position(read_to=2), {1, 2, 3, 4}, oldest=9, following=9)

    assert found == {3, 4}
    assert after == Position(read_to=4)


def test_a_lower_id_that_commits_later_is_found() -> None:
    found, waiting = look(Position(read_to=1), {1, 3}, oldest=100, following=102)
    late, after = look(waiting, {1, 2, 3}, oldest=102, following=102)

    assert (found, late) == ({3}, {2})
    assert waiting.settled == 1
    assert after == Position(read_to=3)


def test_a_hole_stays_open_while_a_transaction_may_fill_it() -> None:
    _, position = look(Position(read_to=1), {1, 3}, oldest=100, following=102)
    _, position = look(position, {1, 3, 4}, oldest=101, following=110)

    assert position.settled == 1
    assert len(position.holes) == 1


def test_a_hole_of_a_transaction_that_was_undone_closes() -> None:
    _, position = look(Position(read_to=1), {1, 3}, oldest=100, following=102)
    found, position = look(position, {1, 3}, oldest=102, following=103)

    assert found == set()
    assert position.settled == 3


@given(data=st.data())
def test_nothing_is_missed_in_whatever_order_transactions_end(data: st.DataObject) -> None:
    """Transaction n is given id n; each commits or is undone at a moment of its own."""
    count = data.draw(st.integers(1, 12))
    ends_at = [data.draw(st.integers(number, number + 8)) for number in range(count)]
    commits = [data.draw(st.booleans()) for _ in range(count)]
    position, seen = Position(read_to=0), set[int]()

    for moment in range(count + 10):
        begun = min(moment + 1, count)
        running = [number for number in range(begun) if ends_at[number] >= moment]
        visible = {number + 1 for number in range(begun) if commits[number] and ends_at[number] < moment}
        if not data.draw(st.booleans()) and moment < count + 8:
            continue
        found, position = look(position, visible, oldest=min(running, default=begun), following=begun)
        seen |= found
        assert all(number in seen for number in visible)
        assert all(number + 1 > position.settled for number in running if commits[number] and number + 1 not in seen)

    assert seen == {number + 1 for number in range(count) if commits[number]}
