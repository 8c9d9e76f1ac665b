import io

from rich.console import Console

from control_plane.demo.narrator import Narrator
from control_plane.demo.verdicts import interval

LONG = "normalised entropy on search differs by +0.0310 (interval +0.0209 to +0.0412), beyond the 0.005 margin"


def narrated(width: int) -> tuple[Narrator, io.StringIO]:
    screen = io.StringIO()
    return Narrator(Console(file=screen, width=width, highlight=False)), screen


def test_a_long_reason_goes_on_below_itself() -> None:
    narrator, screen = narrated(80)

    narrator.event("day  0.25", "search rolled back", LONG)

    lines = screen.getvalue().rstrip("\n").split("\n")
    begins = lines[0].index("normalised")
    assert len(lines) > 1
    assert all(line[:begins].isspace() and not line[begins].isspace() for line in lines[1:])
    assert max(map(len, lines)) <= 80


def test_a_command_to_copy_is_never_broken() -> None:
    narrator, screen = narrated(40)

    narrator.lines("Try next", ["surefoot " + "x" * 60])

    assert "surefoot " + "x" * 60 in screen.getvalue()


def test_an_interval_shows_as_many_digits_as_it_needs() -> None:
    finding = {"effect": 0.0002, "lower": -0.0001, "upper": 0.0005}

    assert interval(finding, digits=2) == "+0.02 %  [-0.01 %, +0.05 %]"
    assert interval(None) == "no data"
