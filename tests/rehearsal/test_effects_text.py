import pytest

from control_plane.domain.errors import ControlPlaneError
from control_plane.rehearsal.audience import Effects
from control_plane.rehearsal.effects_text import scenario_of

VIEW_TYPES = ["grid", "closeup"]


@pytest.mark.parametrize(
    ("text", "effects"),
    [
        ("ctr=-3%", Effects(ctr=-0.03)),
        ("ctr=-0.03", Effects(ctr=-0.03)),
        (" hide_rate = +20 % ", Effects(hide_rate=0.2)),
        ("score_noise=.25", Effects(score_noise=0.25)),
        ("prediction=100%", Effects(prediction=1.0)),
    ],
)
def test_effects_are_read_as_people_write_them(text: str, effects: Effects) -> None:
    assert scenario_of([text], view_types=VIEW_TYPES).effects == effects


def test_an_effect_on_one_view_type_comes_on_top_of_those_everywhere() -> None:
    effects = scenario_of(["hide_rate=5%", "ctr=-3%@grid"], view_types=VIEW_TYPES).effects

    assert effects.at("closeup") == effects
    assert (effects.ctr, effects.hide_rate) == (0.0, 0.05)
    assert (effects.at("grid").ctr, effects.at("grid").hide_rate) == (-0.03, 0.05)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["ctr"], "must be NAME=VALUE"),
        (["ctr="], "must be NAME=VALUE"),
        (["=3%"], "must be NAME=VALUE"),
        (["ctr=3%@"], "must be NAME=VALUE"),
        (["clicks=3%"], "no effect 'clicks'; known: ctr, good_click_rate"),
        (["ctr=3%@list"], "no view type 'list'; known: grid, closeup"),
        (["ctr=three"], "'three' is no number"),
        (["ctr=nan"], "is no number"),
        (["ctr=1e999"], "is no number"),
        (["ctr=-3"], "ctr must be -100% to 1000%"),
        (["ctr=20"], "ctr must be -100% to 1000%"),
        (["score_noise=-10%"], "score_noise must be 0%"),
        (["prediction=-100%"], "above -100%"),
        (["ctr=1%", "ctr=2%"], "ctr is given twice"),
        (["ctr=1%@grid", "ctr=2%@grid"], "ctr is given twice for grid"),
    ],
)
def test_what_is_no_effect_is_refused_plainly(texts: list[str], said: str) -> None:
    with pytest.raises(ControlPlaneError) as refusal:
        scenario_of(texts, view_types=VIEW_TYPES)

    assert said in str(refusal.value)
