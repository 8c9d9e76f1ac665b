import pytest

from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.rehearse import rehearse
from control_plane.rehearsal.results import Grade
from control_plane.rehearsal.wording import cost, findings, happened, number, short, when
from tests.rehearsal.builders import EQUAL, a_scenario, a_trial


@pytest.mark.parametrize(
    ("value", "long", "brief"),
    [
        (0.0, "0", "0"),
        (0.25, "0.25", "0.25"),
        (35.4, "35", "35"),
        (1_240.0, "1\u202f240", "1240"),
        (35_210.0, "35.2 thousand", "35.2k"),
        (4_130_000.0, "4.13 million", "4.13M"),
        (-35_210.0, "-35.2 thousand", "-35.2k"),
        (7.5e9, "7.5 billion", "7.5G"),
    ],
)
def test_amounts_have_three_figures(value: float, long: str, brief: str) -> None:
    assert (number(value), short(value)) == (long, brief)


def test_a_rehearsal_is_told_in_sentences() -> None:
    harmful = a_scenario(Effects(ctr=-0.4), name="harmful")
    unseen = a_scenario(Effects(hide_rate=0.5), name="unseen")

    equal, caught, passed = results = rehearse(a_trial(), [EQUAL, harmful, unseen], runs=3)
    told = dict(reversed(list(findings(results))))

    assert happened(equal) == "reached full traffic in 3 of 3 runs"
    assert happened(caught) == "was rolled back on evidence in 3 of 3 runs"
    assert "after it first had weight" in when(caught)
    assert "impressions were harmed" in cost(caught)
    assert "clicks lost until then" in cost(caught)
    assert "hides too many" in cost(passed)
    assert cost(equal) == ""
    assert told[Grade.OPEN].startswith("unseen: Own. It reached full traffic in 3 of 3 runs. Nothing can be expected")
    assert "does not guard hide rate" in told[Grade.OPEN]
