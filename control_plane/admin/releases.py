"""What the pages of releases show: each surface, what it waits for, and the edges between them."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup
from sqlalchemy.orm import Session

from control_plane.admin import release_graph, wording
from control_plane.admin.history import withdrawn
from control_plane.admin.release_graph import Node
from control_plane.admin.surface_card import waiting_sentence
from control_plane.admin.wording import Chip
from control_plane.api.standing import standing_of
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import FINISHED, Phase, Rollout
from control_plane.domain.surface_graph import Edge, hand_back_order
from control_plane.registry import history, release_rows, releases, surfaces
from control_plane.registry.release_rows import Release

RELEASES_SHOWN = 50
HISTORY_READ = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseLine:
    release: Release
    chips: tuple[tuple[Surface, Chip], ...]
    is_open: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceLine:
    """One surface of a release; `waits` is empty where its rollout is over."""

    rollout: Rollout
    chip: Chip
    waits: str
    acknowledged_bp: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeLine:
    edge: Edge
    condition: str
    policy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleasePage:
    release: Release
    graph: Markup
    lines: tuple[SurfaceLine, ...]
    edges: tuple[EdgeLine, ...]
    goes_back: tuple[Rollout, ...]
    is_open: bool


def load_list(session: Session) -> tuple[ReleaseLine, ...]:
    aborted = _withdrawn(session)
    return tuple(
        _list_line(session, found, aborted) for found in release_rows.list_releases(session, limit=RELEASES_SHOWN)
    )


def load_release(session: Session, release_id: int, *, now: datetime, live_since: datetime) -> ReleasePage:
    release = release_rows.load(session, release_id)
    rollouts = release_rows.rollouts_of(session, release_id)
    blocked = releases.blockers(session, release, rollouts, now=now)
    aborted = _withdrawn(session)
    lines = []
    for surface in reversed(hand_back_order(rollouts, release.edges)):
        rollout = rollouts[surface]
        standing = standing_of(session, rollout, now=now, live_since=live_since)
        waits = "" if rollout.phase in FINISHED else waiting_sentence(standing, now)
        if surface in blocked:
            waits = f"Waiting for {blocked[surface]}."
        lines.append(
            SurfaceLine(
                rollout=rollout, chip=_chip(rollout, aborted), waits=waits, acknowledged_bp=standing.acknowledged_bp
            )
        )
    nodes = [_node(line) for line in lines]
    return ReleasePage(
        release=release,
        graph=release_graph.release_graph(nodes, release.edges),
        lines=tuple(lines),
        edges=tuple(_edge_line(edge) for edge in release.edges),
        goes_back=going_back(session, release),
        is_open=any(rollout.phase not in FINISHED for rollout in rollouts.values()),
    )


def going_back(session: Session, release: Release) -> tuple[Rollout, ...]:
    """The rollouts that rolling the release back would change, in the order in which they go back."""
    found = release_rows.rollouts_of(session, release.release_id)
    order = [found[surface] for surface in hand_back_order(found, release.edges)]
    return tuple(rollout for rollout in order if _can_go_back(session, rollout))


def _can_go_back(session: Session, rollout: Rollout) -> bool:
    if rollout.phase is Phase.DONE:
        return surfaces.get(session, rollout.surface).stable == rollout.candidate
    return rollout.phase is not Phase.ROLLED_BACK


def _withdrawn(session: Session) -> frozenset[int]:
    return withdrawn(history.list_history(session, limit=HISTORY_READ))


def _list_line(session: Session, release: Release, aborted: Collection[int]) -> ReleaseLine:
    found = release_rows.rollouts_of(session, release.release_id)
    order = list(reversed(hand_back_order(found, release.edges)))
    return ReleaseLine(
        release=release,
        chips=tuple((surface, _chip(found[surface], aborted)) for surface in order),
        is_open=any(rollout.phase not in FINISHED for rollout in found.values()),
    )


def _chip(rollout: Rollout, aborted: Collection[int]) -> Chip:
    return wording.phase_chip(rollout, is_withdrawn=rollout.rollout_id in aborted)


def _node(line: SurfaceLine) -> Node:
    return Node(
        surface=line.rollout.surface,
        words=line.chip.words,
        colour=line.chip.colour,
        candidate_bp=line.rollout.candidate_bp,
        address=f"/rollouts/{line.rollout.rollout_id}",
    )


def _edge_line(edge: Edge) -> EdgeLine:
    return EdgeLine(
        edge=edge, condition=release_graph.condition_words(edge), policy=release_graph.POLICY_WORDS[edge.on_rollback]
    )
