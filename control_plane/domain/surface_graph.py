"""Which surface may start when, and which goes back when: a release's edges, from an upstream surface to one below.

What is upstream tests the ground first; what is downstream goes back first.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.model_version import Surface


class OnUpstreamRollback(StrEnum):
    """What a surface does when the surface it follows is rolled back."""

    HOLD = "hold"  # keeps its weights and waits for a person; does not start
    CASCADE = "cascade"  # goes back with it, in the same transaction
    IGNORE = "ignore"  # goes its own way; starts only if the edge's condition was met before


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """`downstream` may start once `upstream`'s candidate held at least `share_bp` for `held_seconds`."""

    upstream: Surface
    downstream: Surface
    share_bp: int
    held_seconds: float
    needs_green: bool = True  # and no guardrail of upstream speaks against it
    on_rollback: OnUpstreamRollback = OnUpstreamRollback.HOLD


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an upstream rollout of the same release is; `reached` has each weight it was given, and when first."""

    candidate_bp: int
    reached: tuple[tuple[int, datetime], ...]
    is_green: bool
    rolled_back_at: datetime | None = None

    def share_since(self, share_bp: int) -> datetime | None:
        """Since when the candidate has held at least `share_bp`; a further raise does not begin anew."""
        if self.candidate_bp < share_bp:
            return None
        return self._first_at(share_bp)

    def had_held(self, edge: Edge) -> bool:
        """Whether the edge's condition was met when the upstream was rolled back; its guardrails are told no more."""
        since = self._first_at(edge.share_bp)
        if since is None or self.rolled_back_at is None:
            return False
        return self.rolled_back_at >= since + timedelta(seconds=edge.held_seconds)

    def _first_at(self, share_bp: int) -> datetime | None:
        return min((at for weight_bp, at in self.reached if weight_bp >= share_bp), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aftermath:
    """What surfaces below one that was rolled back have to do; `go_back` in that order."""

    go_back: tuple[Surface, ...]
    hold: tuple[Surface, ...]


def check_edges(edges: Sequence[Edge], surfaces: Sequence[Surface]) -> None:
    """Refuse edges to surfaces outside the release, two edges between the same surfaces, and cycles."""
    for index, edge in enumerate(edges):
        for end, surface in (("upstream", edge.upstream), ("downstream", edge.downstream)):
            if surface not in surfaces:
                raise InvalidPlan(f"edges[{index}].{end}", f"{surface!r} is not a surface of this release")
        if any((edge.upstream, edge.downstream) == (other.upstream, other.downstream) for other in edges[:index]):
            raise InvalidPlan(f"edges[{index}]", f"there is an edge from {edge.upstream} to {edge.downstream} already")
    open_surfaces = set(surfaces)
    while open_surfaces:
        free = {s for s in open_surfaces if not any(e.downstream == s and e.upstream in open_surfaces for e in edges)}
        if not free:
            raise InvalidPlan("edges", f"go round in a circle through {', '.join(sorted(open_surfaces))}")
        open_surfaces -= free


def blocked_by(
    surface: Surface, edges: Sequence[Edge], progress: Mapping[Surface, Progress], *, now: datetime
) -> str | None:
    """Return what `surface` still waits for, in words, or None if its way is free."""
    waits = (_waits_for(edge, progress.get(edge.upstream), now) for edge in edges if edge.downstream == surface)
    return next((wait for wait in waits if wait is not None), None)


def hand_back_order(surfaces: Collection[Surface], edges: Sequence[Edge]) -> tuple[Surface, ...]:
    """Furthest downstream first: no surface before one that follows it. Edges make no cycle."""
    upstream_of = {surface: [edge.upstream for edge in edges if edge.downstream == surface] for surface in surfaces}

    def depth(surface: Surface) -> int:
        return 1 + max((depth(upstream) for upstream in upstream_of[surface] if upstream in upstream_of), default=0)

    return tuple(sorted(surfaces, key=lambda surface: (-depth(surface), surface)))


def aftermath(rolled_back: Collection[Surface], edges: Sequence[Edge]) -> Aftermath:
    """Follow the edges down from what was rolled back; where two edges lead to a surface, the safer policy rules."""
    going = set(rolled_back)
    while more := _below(going, edges, OnUpstreamRollback.CASCADE) - going:
        going |= more
    order = hand_back_order({surface for edge in edges for surface in (edge.upstream, edge.downstream)}, edges)
    held = _below(going, edges, OnUpstreamRollback.HOLD) - going
    return Aftermath(
        go_back=tuple(surface for surface in order if surface in going - set(rolled_back)),
        hold=tuple(surface for surface in order if surface in held),
    )


def _waits_for(edge: Edge, upstream: Progress | None, now: datetime) -> str | None:
    if upstream is None:
        return f"{edge.upstream} to start"
    if upstream.rolled_back_at is not None:
        return None if _may_ignore(edge, upstream) else f"a person: {edge.upstream} was rolled back"
    share_since = upstream.share_since(edge.share_bp)
    if share_since is None:
        return f"{edge.upstream} to reach {edge.share_bp / 100:g} %"
    if now < share_since + timedelta(seconds=edge.held_seconds):
        return f"{edge.upstream} to hold {edge.share_bp / 100:g} % for {edge.held_seconds / 3600:g} h"
    if edge.needs_green and not upstream.is_green:
        return f"{edge.upstream}'s guardrails to be green"
    return None


def _may_ignore(edge: Edge, upstream: Progress) -> bool:
    return edge.on_rollback is OnUpstreamRollback.IGNORE and upstream.had_held(edge)


def _below(surfaces: Collection[Surface], edges: Sequence[Edge], policy: OnUpstreamRollback) -> set[Surface]:
    return {edge.downstream for edge in edges if edge.upstream in surfaces and edge.on_rollback is policy}
