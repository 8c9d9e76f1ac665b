"""Reading verdicts as the API gives them."""

from control_plane.demo.control_client import Json
from control_plane.domain.moments import WHOLE_SURFACE


def whole_surface(verdict: Json, metric: str) -> Json | None:
    """The finding of a metric on the surface as a whole."""
    for finding in verdict["findings"]:
        if finding["metric"] == metric and finding["segment"] == WHOLE_SURFACE:
            found: Json = finding
            return found
    return None


def interval(finding: Json | None, *, digits: int = 1) -> str:
    if finding is None or finding["effect"] is None:
        return "no data"
    effect = _signed(finding["effect"], digits)
    if finding["lower"] is None or finding["upper"] is None:
        return effect
    return f"{effect}  [{_signed(finding['lower'], digits)}, {_signed(finding['upper'], digits)}]"


def _signed(fraction: float, digits: int) -> str:
    return f"{fraction:+.{digits}%}".replace("%", " %")
