"""A release's surfaces as a graph in SVG: upstream above, what follows it below, each edge with its condition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from control_plane.admin import wording
from control_plane.domain.model_version import Surface
from control_plane.domain.split import FULL_TRAFFIC_BP
from control_plane.domain.surface_graph import Edge, OnUpstreamRollback

# User units, each one CSS pixel.
NODE_WIDTH, NODE_HEIGHT = 208, 76
GAP, LAYER_GAP = 44, 104
MARGIN = 6
LABEL_WIDTH, LABEL_HEIGHT = 176, 40
LABEL_SPACE, LABEL_ROW = 6, 46
MOST_SCALED = 2 * NODE_WIDTH + GAP + 2 * MARGIN  # wider ones would be too small to read on a phone, and scroll
BAR_WIDTH = NODE_WIDTH - 28
POLICY_WORDS = {
    OnUpstreamRollback.HOLD: "holds if it goes back",
    OnUpstreamRollback.CASCADE: "goes back with it",
    OnUpstreamRollback.IGNORE: "goes on without it",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """`words` is its phase with its weight, `colour` the chip's; the node leads to `address`."""

    surface: Surface
    words: str
    colour: str
    candidate_bp: int
    address: str


@dataclass(frozen=True, slots=True)
class Place:
    x: float  # of the node's middle
    y: float  # of its upper edge


@dataclass(frozen=True, slots=True)
class _Drawing:
    places: Mapping[Surface, Place]
    labels: Mapping[Edge, tuple[float, float]]  # the middle of each
    width: float
    height: float


def condition_words(edge: Edge) -> str:
    """'at 25 % for 2 h, green': what downstream waits for upstream to have done."""
    held = f" for {wording.duration(edge.held_seconds)}" if edge.held_seconds else ""
    return f"at {wording.share(edge.share_bp)}{held}{', green' if edge.needs_green else ''}"


def release_graph(nodes: Sequence[Node], edges: Sequence[Edge]) -> Markup:
    drawing = _layout([node.surface for node in nodes], edges)
    body = "".join(_line(edge, drawing) for edge in edges)
    body += "".join(_node(node, drawing.places[node.surface]) for node in nodes)
    body += "".join(_label(edge, *drawing.labels[edge]) for edge in edges)
    words = "; ".join([*(f"{_name(node.surface)}: {node.words}" for node in nodes), *map(_edge_words, edges)])
    width, height = drawing.width, drawing.height
    frame = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img"'
    kind = "surface-graph" if width > MOST_SCALED else "surface-graph scales"
    return Markup(f'<svg class="{kind}" {frame} aria-label="{escape(words)}">{body}</svg>')


def _layout(surfaces: Sequence[Surface], edges: Sequence[Edge]) -> _Drawing:
    """Each surface one layer below the lowest that it follows; edges make no cycle. No label lies on another one."""
    upstream = {surface: [edge.upstream for edge in edges if edge.downstream == surface] for surface in surfaces}

    def layer(surface: Surface) -> int:
        return max((1 + layer(other) for other in upstream[surface]), default=0)

    layers: dict[int, list[Surface]] = {}
    for surface in surfaces:
        layers.setdefault(layer(surface), []).append(surface)
    widest = max((len(row) for row in layers.values()), default=1)
    width = widest * NODE_WIDTH + (widest - 1) * GAP + 2 * MARGIN
    middles: dict[Surface, float] = {}
    for depth in sorted(layers):
        row = sorted(layers[depth], key=lambda surface: (_mean_x(upstream[surface], middles, width), surface))
        left = (width - (len(row) * NODE_WIDTH + (len(row) - 1) * GAP)) / 2 + NODE_WIDTH / 2
        middles |= {surface: left + index * (NODE_WIDTH + GAP) for index, surface in enumerate(row)}
    places: dict[Surface, Place] = {}
    labels: dict[Edge, tuple[float, float]] = {}
    y: float = MARGIN
    for depth in sorted(layers):
        above = [edge for edge in edges if edge.downstream in layers[depth]]
        rows = _label_rows(above, edges, middles)
        if depth:
            y += LAYER_GAP + LABEL_ROW * max(rows.values(), default=0)
        labels |= {
            edge: (_label_x(edge, edges, middles), y - LAYER_GAP / 2 - 2 - LABEL_ROW * row)
            for edge, row in rows.items()
        }
        places |= {surface: Place(middles[surface], y) for surface in layers[depth]}
        y += NODE_HEIGHT
    return _Drawing(places, labels, width, y + MARGIN)


def _label_rows(above: Sequence[Edge], edges: Sequence[Edge], middles: Mapping[Surface, float]) -> dict[Edge, int]:
    """The lowest row in which each label has room, of those between one layer and the one before it."""
    rows: dict[Edge, int] = {}
    for edge in above:
        x = _label_x(edge, edges, middles)
        taken = {
            row for other, row in rows.items() if abs(_label_x(other, edges, middles) - x) < LABEL_WIDTH + LABEL_SPACE
        }
        rows[edge] = next(row for row in range(len(above)) if row not in taken)
    return rows


def _label_x(edge: Edge, edges: Sequence[Edge], middles: Mapping[Surface, float]) -> float:
    """Above or below the node that has no other edge on that side, or else between both."""
    if sum(other.downstream == edge.downstream for other in edges) == 1:
        return middles[edge.downstream]
    if sum(other.upstream == edge.upstream for other in edges) == 1:
        return middles[edge.upstream]
    return (middles[edge.upstream] + middles[edge.downstream]) / 2


def _mean_x(upstream: Sequence[Surface], middles: Mapping[Surface, float], width: float) -> float:
    """So that a surface lies below what it follows, and few lines cross."""
    return sum(middles[surface] for surface in upstream) / len(upstream) if upstream else width / 2


def _line(edge: Edge, drawing: _Drawing) -> str:
    """From below the upstream node through its label to above the downstream one."""
    start, end = drawing.places[edge.upstream], drawing.places[edge.downstream]
    x, y = drawing.labels[edge]
    above = _curve(start.x, start.y + NODE_HEIGHT, x, y - LABEL_HEIGHT / 2)
    below = _curve(x, y + LABEL_HEIGHT / 2, end.x, end.y - 7)
    head = f"M{end.x - 5:.0f} {end.y - 7:.0f}h10l-5 7z"
    return f'<path class="g-line g-{edge.on_rollback}" d="{above}{below}"/><path class="g-head" d="{head}"/>'


def _curve(from_x: float, from_y: float, to_x: float, to_y: float) -> str:
    middle = (from_y + to_y) / 2
    return f"M{from_x:.0f} {from_y:.0f}C{from_x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"


def _node(node: Node, place: Place) -> str:
    left, top = place.x - NODE_WIDTH / 2, place.y
    share = node.candidate_bp / FULL_TRAFFIC_BP * BAR_WIDTH
    bar_y = top + NODE_HEIGHT - 16
    body = f'<rect class="g-node g-{escape(node.colour)}" x="{left:.0f}" y="{top:.0f}" '
    body += f'width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="10"/>'
    body += (
        f'<text class="g-name" x="{left + 14:.0f}" y="{top + 25:.0f}">{escape(_short(_name(node.surface), 22))}</text>'
    )
    body += f'<text class="g-phase" x="{left + 14:.0f}" y="{top + 45:.0f}">{escape(_short(node.words, 28))}</text>'
    body += f'<rect class="c-stable" x="{left + 14:.0f}" y="{bar_y:.0f}" width="{BAR_WIDTH}" height="6" rx="3"/>'
    if node.candidate_bp:
        x, width = left + 14 + BAR_WIDTH - max(share, 3), max(share, 3)
        body += f'<rect class="c-candidate" x="{x:.1f}" y="{bar_y:.0f}" width="{width:.1f}" height="6" rx="3"/>'
    return f'<a href="{escape(node.address)}">{body}</a>'


def _label(edge: Edge, x: float, y: float) -> str:
    body = f'<rect class="g-label" x="{x - LABEL_WIDTH / 2:.0f}" y="{y - LABEL_HEIGHT / 2:.0f}" '
    body += f'width="{LABEL_WIDTH}" height="{LABEL_HEIGHT}" rx="6"/>'
    body += f'<text class="g-condition" x="{x:.0f}" y="{y - 3:.0f}" text-anchor="middle">{condition_words(edge)}</text>'
    body += f'<text class="g-policy" x="{x:.0f}" y="{y + 14:.0f}" text-anchor="middle">'
    return f"{body}{POLICY_WORDS[edge.on_rollback]}</text>"


def _edge_words(edge: Edge) -> str:
    follows = f"{_name(edge.downstream)} follows {_name(edge.upstream)} {condition_words(edge)}"
    return f"{follows}, {POLICY_WORDS[edge.on_rollback]}"


def _name(surface: str) -> str:
    return wording.surface_name(surface)


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"
