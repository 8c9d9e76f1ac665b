"""Which surface may start when: edges of a release, each with a condition on an upstream surface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from control_plane.domain.errors import InvalidPlan
from control_plane.domain.model_version import Surface


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """`downstream` may start once `upstream`'s candidate held at least `share_bp` for `held_seconds`."""

    upstream: Surface
    downstream: Surface
    share_bp: int
    held_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an upstream rollout of the same release is; `reached` has each weight it was given, and when first."""

    candidate_bp: int
    reached: tuple[tuple[int, datetime], ...]
    is_green: bool
    was_rolled_back: bool = False

    def share_since(self, share_bp: int) -> datetime | None:
        """Since when the candidate has held at least `share_bp`; a further raise does not begin anew."""
        if self.candidate_bp < share_bp:
            return None
        return min((at for weight_bp, at in self.reached if weight_bp >= share_bp), default=None)


def check_edges(edges: Sequence[Edge], surfaces: Sequence[Surface]) -> None:
    """Refuse edges to surfaces outside the release, and cycles."""
    for index, edge in enumerate(edges):
        for end, surface in (("upstream", edge.upstream), ("downstream", edge.downstream)):
            if surface not in surfaces:
                raise InvalidPlan(f"edges[{index}].{end}", f"{surface!r} is not a surface of this release")
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
    for edge in edges:
        if edge.downstream != surface:
            continue
        upstream = progress.get(edge.upstream)
        if upstream is None:
            return f"{edge.upstream} to start"
        if upstream.was_rolled_back:
            return f"a person: {edge.upstream} was rolled back"
        share_since = upstream.share_since(edge.share_bp)
        if share_since is None:
            return f"{edge.upstream} to reach {edge.share_bp / 100:g} %"
        if now < share_since + timedelta(seconds=edge.held_seconds):
            return f"{edge.upstream} to hold {edge.share_bp / 100:g} % for {edge.held_seconds / 3600:g} h"
        if not upstream.is_green:
            return f"{edge.upstream}'s guardrails to be green"
    return None
