import math

import pytest

from control_plane.domain.verdict import Answer, Finding, Outcome, Verdict, percent
from tests.builders import a_verdict


def test_a_verdict_survives_json_to_the_byte() -> None:
    finding = Finding(metric="ctr", segment="*", answer=Answer.SAFE, gates=True, effect=-0.1 / 3, log_e_safe=3.5)
    verdict = a_verdict(Outcome.ADVANCE, findings=(finding,), culprits=("ctr/*",))

    again = Verdict.from_json(verdict.to_json())

    assert again.to_json() == verdict.to_json()
    assert again.findings[0].effect == pytest.approx(-0.1 / 3, rel=1e-8)
    assert again.allows_advance


def test_a_verdict_that_is_no_number_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        a_verdict(log_e_rollback=math.nan).to_json()


def test_percentages_read_as_people_write_them() -> None:
    assert percent(-0.031) == "-3.1 %"
    assert percent(0.03, signed=False) == "3.0 %"
