from pathlib import Path

import pytest

from control_plane.domain.verdict import Outcome
from control_plane.rehearsal.recording import NoRecording
from control_plane.rehearsal.second_opinion import OtherEvidence, holds_inputs, second_opinions
from tests.rehearsal.builders import a_quick_plan
from tests.rehearsal.packed import write_inputs

STRICT = {
    "guardrails": [{"metric": "ctr", "harm_margin": "0.1%", "safe_margin": "0.2%"}],
    "judge": {"loss_budget": "0.1%"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def test_every_look_is_judged_again_in_the_order_of_time(folder: Path) -> None:
    opinions = second_opinions(a_quick_plan(**STRICT), folder)

    assert holds_inputs(folder)
    assert [one.name for one in opinions] == ["3.inputs", "2.inputs", "1.inputs", "0.inputs"]
    assert opinions[-1].then.outcome is Outcome.ADVANCE
    assert {one.now.outcome for one in opinions} == {Outcome.HOLD}
    assert opinions[-1].differs


def test_the_same_plan_says_the_same(folder: Path) -> None:
    assert not any(one.differs for one in second_opinions(a_quick_plan(), folder))


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"steps": [{"share": "50%"}, {"share": "100%"}]}, "steps"),
        ({"guardrails": [{"metric": "ctr", "window": "2h"}]}, "attribution windows"),
        ({"revenue_cap": 3}, "revenue cap"),
    ],
)
def test_sums_made_for_another_plan_are_refused(folder: Path, overrides: dict[str, object], what: str) -> None:
    with pytest.raises(OtherEvidence, match=what):
        second_opinions(a_quick_plan(**overrides), folder)


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "1.inputs").write_bytes(b"surefoot")

    with pytest.raises(NoRecording, match=r"1\.inputs"):
        second_opinions(a_quick_plan(), folder)
