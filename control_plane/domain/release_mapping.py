"""Releases as people write them: the candidates, the plan and the edges between surfaces; checked, and written back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control_plane.domain.errors import InvalidManifest, InvalidPlan
from control_plane.domain.model_version import Surface, check_name
from control_plane.domain.plan import RolloutPlan
from control_plane.domain.plan_mapping import plan_from_mapping
from control_plane.domain.plan_reader import Reader
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback, check_edges

KEYS = ("candidates", "plan", "edges")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseFile:
    """What a release file says; `plan` is where the plan's own file lies, if it does not stand in this one.

    Candidates are version ids or their first digits, by surface.
    """

    candidates: Mapping[Surface, str]
    plan: RolloutPlan | str
    edges: tuple[Edge, ...]


def release_from_mapping(mapping: object) -> ReleaseFile:
    """Read a release; `InvalidPlan` names the key and the rule it breaks. Unknown keys are refused."""
    if not isinstance(mapping, Mapping):
        raise InvalidPlan("release", "must be a mapping of keys to values")
    for key in mapping:
        if key not in KEYS:
            raise InvalidPlan(str(key), f"unknown key; known: {', '.join(KEYS)}")
    candidates = _candidates(mapping.get("candidates"))
    edges = tuple(read_edge(edge) for edge in Reader(mapping).list_of("edges", default=()))
    check_edges(edges, list(candidates))
    return ReleaseFile(candidates=candidates, plan=_plan(mapping.get("plan")), edges=edges)


def read_edge(reader: Reader) -> Edge:
    """One edge; a release without conditions on guardrails or roll backs waits for green ones, and holds."""
    edge = Edge(
        upstream=Surface(reader.name("upstream")),
        downstream=Surface(reader.name("downstream")),
        share_bp=reader.share("share", least=1),
        held_seconds=reader.duration("held", 0.0, least=0.0),
        needs_green=reader.flag("needs_green", True),
        on_rollback=reader.choice("on_rollback", OnUpstreamRollback, OnUpstreamRollback.HOLD),
    )
    reader.refuse_unknown()
    return edge


def edges_to_mapping(edges: Sequence[Edge]) -> list[dict[str, object]]:
    """What `read_edge` reads back, of JSON types only."""
    return [
        {
            "upstream": edge.upstream,
            "downstream": edge.downstream,
            "share": f"{edge.share_bp}bp",
            "held": f"{edge.held_seconds!r}s",
            "needs_green": edge.needs_green,
            "on_rollback": edge.on_rollback.value,
        }
        for edge in edges
    ]


def _candidates(value: object) -> dict[Surface, str]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidPlan("candidates", "must map surfaces to version ids")
    for surface, version in value.items():
        try:
            check_name(f"candidates.{surface}", surface)
        except InvalidManifest as error:
            raise InvalidPlan(error.field, error.rule) from None
        if not isinstance(version, str) or not version:
            rule = "must be a version id or its first digits, in quotes if they are all digits"
            raise InvalidPlan(f"candidates.{surface}", f"{rule}, not {version!r}")
    return {Surface(surface): version for surface, version in value.items()}


def _plan(value: object) -> RolloutPlan | str:
    if isinstance(value, str) and value:
        return value
    try:
        return plan_from_mapping(value)
    except InvalidPlan as error:
        raise InvalidPlan("plan" if error.field == "plan" else f"plan.{error.field}", error.rule) from None
