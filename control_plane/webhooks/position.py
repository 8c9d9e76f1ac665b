"""Up to where a subscriber has read the outbox, and what may still turn up behind that."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from control_plane.registry.outbox import Entry, Running


@dataclass(frozen=True, kw_only=True, slots=True)
class Hole:
    """Ids that were not there when higher ones were: their transactions may still commit, or never did.

    Every transaction that may have been given one of them has a lower number than `closes_at`.
    """

    first: int
    last: int
    closes_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A database hands ids out before the transactions commit that write them, so that a lower one may come later."""

    read_to: int
    holes: tuple[Hole, ...] = ()

    @property
    def settled(self) -> int:
        """No entry up to here is unread, and none is to come."""
        return min((hole.first - 1 for hole in self.holes), default=self.read_to)

    def look(
        self,
        between: Callable[[int, int], Sequence[Entry]],
        following: Sequence[Entry],
        running: Running,
    ) -> tuple[list[Entry], "Position"]:
        """Entries in the holes, perhaps seen before, and the `following` ones; and the position after them.

        All three arguments are of one snapshot of the database: a hole that every transaction has left by then
        closes with this look into it.
        """
        late = [entry for hole in self.holes for entry in between(hole.first, hole.last)]
        still_open = tuple(hole for hole in self.holes if running.oldest < hole.closes_at)
        after = replace(self, holes=still_open)
        for entry in following:
            after = after._past(entry.outbox_id, running)
        return [*late, *following], after

    def _past(self, outbox_id: int, running: Running) -> "Position":
        hole = Hole(first=self.read_to + 1, last=outbox_id - 1, closes_at=running.next)
        return Position(read_to=outbox_id, holes=(*self.holes, hole) if hole.first <= hole.last else self.holes)
