"""The network's picture in docs/model.md: `python -m docs.network_picture` writes docs/images/network.svg.

It is narrow, so that a phone shows its words; the ground is opaque, since a picture does not know the page around it.
"""

from pathlib import Path
from xml.sax.saxutils import escape

IMAGE = Path(__file__).parent / "images" / "network.svg"
WIDTH, HEIGHT, MARGIN = 500, 806, 16
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#007F5F"  # after Okabe and Ito 2008, green darkened for text
INK, GREY, GROUND, WHITE = "#1a1a1a", "#6b6b6b", "#fcfcfa", "#ffffff"
LEFT, RIGHT, HALF = MARGIN + 14, 258, 212  # where the two columns begin, and how wide each is
FULL = WIDTH - 2 * (MARGIN + 14)
SURFACES = ("home_feed", "search", "related_pins")
TITLE = "The unified network"
TOLD = (
    "What depends on the user alone is computed once per user, then broadcast to their candidates. One trunk feeds "
    "a head for each surface; an export holds the trunk and one head."
)


def main() -> None:
    IMAGE.write_text(picture())


def picture() -> str:
    """The whole file; the same text each time."""
    parts = [
        _frame(MARGIN, 30, WIDTH - 2 * MARGIN, 500),
        _words(MARGIN + 8, 24, "Trunk: the same bytes on every surface", colour=GREY, anchor="start"),
        _box(LEFT, 44, HALF, "User", "features, history", colour=BLUE),
        _box(RIGHT, 44, HALF, "Candidate", "features, view type", colour=ORANGE),
        _arrow(LEFT + HALF / 2, 90, 112),
        _arrow(RIGHT + HALF / 2, 90, 112),
        _box(LEFT, 112, FULL, "One flat embedding table", "all one-hot and multi-hot features in one look-up"),
        _arrow(LEFT + HALF / 2, 158, 180),
        _arrow(RIGHT + HALF / 2, 158, 252),
        _box(LEFT, 180, HALF, "Transformer", "over the user's history", colour=BLUE),
        _arrow(LEFT + HALF / 2, 226, 252),
        _sideways(LEFT + HALF, 203, RIGHT + HALF / 2 - 40, 252),
        _words(RIGHT + 4, 196, "keys, values", colour=GREY, anchor="start"),
        _box(LEFT, 252, HALF, "DCNv2 projection", "to a smaller vector", colour=BLUE),
        _box(RIGHT, 252, HALF, "Cross-attention", "grouped by user; optional", colour=ORANGE),
        _arrow(LEFT + HALF / 2, 298, 334),
        _arrow(RIGHT + HALF / 2, 298, 334),
        _words(LEFT + HALF / 2 + 8, 321, "once per user", colour=BLUE, anchor="start"),
        _words(RIGHT + HALF / 2 + 8, 321, "every row", colour=ORANGE, anchor="start"),
        _box(LEFT, 334, FULL, "Broadcast and join", "each row beside its own user's vector"),
        _arrow(WIDTH / 2, 380, 400),
        _box(LEFT, 400, FULL, "DCNv2 crossing", "low rank, each layer one degree more"),
        _arrow(WIDTH / 2, 446, 468),
        _box(LEFT, 468, FULL, "Experts", "shared; each surface weighs them by its gates"),
        *(part for index, surface in enumerate(SURFACES) for part in _surface(index, surface)),
        _words(
            WIDTH / 2, HEIGHT - 10, "An export: the trunk, one surface's column, nothing of the others", colour=GREY
        ),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="title told" font-family="system-ui, sans-serif" font-size="14">'
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>'
    )
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{GROUND}"/>'
    words = [f'<title id="title">{TITLE}</title>', f'<desc id="told">{escape(TOLD)}</desc>']
    return "\n".join([head, *words, tip, ground, *parts, "</svg>"]) + "\n"


def _surface(index: int, surface: str) -> list[str]:
    gap = 10
    width = (WIDTH - 2 * MARGIN - 2 * gap) / len(SURFACES)
    left = MARGIN + index * (width + gap)
    rows = (
        ("Gates", "by task"),
        ("Tower tree", "and own features"),
        ("3 heads", "click, good, hide"),
        ("Calibration", "by view type"),
    )
    colour = GREEN if index == 0 else GREY
    parts = [_arrow(left + width / 2, 514, 560), _words(left + width / 2, 576, surface, colour=colour, is_bold=True)]
    for row, (name, told) in enumerate(rows):
        parts.append(_box(left, 584 + row * 49, width, name, told, colour=colour, height=44))
    return parts


def _box(left: float, top: float, width: float, name: str, told: str, *, colour: str = INK, height: float = 46) -> str:
    middle = left + width / 2
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="6" fill="{WHITE}" stroke="{colour}" '
        'stroke-width="1.5"/>'
        + _words(middle, top + 19, name, colour=colour, is_bold=True)
        + _words(middle, top + 37, told, colour=INK, size=13)
    )


def _words(
    x: float, y: float, text: str, *, colour: str, anchor: str = "middle", is_bold: bool = False, size: int = 14
) -> str:
    weight = ' font-weight="600"' if is_bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"{weight}>'
        f"{escape(text)}</text>"
    )


def _frame(left: float, top: float, width: float, height: float) -> str:
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="10" fill="none" stroke="{GREY}" '
        'stroke-dasharray="5 4"/>'
    )


def _arrow(x: float, top: float, bottom: float) -> str:
    return f'<path d="M{x:g} {top:g}V{bottom - 1:g}" stroke="{GREY}" stroke-width="1.5" marker-end="url(#tip)"/>'


def _sideways(left: float, top: float, right: float, bottom: float) -> str:
    """From a box to the right, then down onto another."""
    line = f"M{left:g} {top:g}H{right:g}V{bottom - 1:g}"
    return f'<path d="{line}" fill="none" stroke="{GREY}" stroke-width="1.5" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    main()
