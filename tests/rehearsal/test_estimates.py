import math

import pytest
from scipy import stats

from control_plane.rehearsal.estimates import proportion, spread


@pytest.mark.parametrize(("count", "total"), [(0, 20), (7, 20), (20, 20), (1, 1), (0, 1)])
def test_a_proportion_has_the_interval_of_clopper_and_pearson(count: int, total: int) -> None:
    expected = stats.binomtest(count, total).proportion_ci(method="exact")

    found = proportion(count, total)

    assert (found.value, found.lower, found.upper) == pytest.approx((count / total, expected.low, expected.high))


def test_a_mean_has_its_standard_error() -> None:
    found = spread([1.0, 2.0, 6.0])

    assert found is not None
    assert (found.mean, found.median, found.runs) == (3.0, 2.0, 3)
    assert found.mean_error == pytest.approx(math.sqrt(7) / math.sqrt(3))


def test_one_run_has_no_error_and_none_has_no_spread() -> None:
    one = spread([4.0])

    assert one is not None
    assert one.mean_error is None
    assert spread([]) is None
