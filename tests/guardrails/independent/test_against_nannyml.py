"""Distances between binned scores as NannyML and scipy compute them."""

import pytest

from tests.guardrails.independent.stored import cases


def test_nannyml_and_scipy_agree_on_the_distances_between_bins() -> None:
    """So that what ours are compared with is not one package's reading; NannyML lets bins sum to 1 only nearly."""
    ours = zip(cases("nannyml", "drift of bin indices"), cases("scipy", "drift of bin indices"), strict=True)
    for nannyml, scipy in ours:
        assert nannyml.inputs == scipy.inputs
        for name, distance in scipy.value.items():
            assert nannyml.value[name] == pytest.approx(distance, rel=1e-9, abs=1e-8), name
