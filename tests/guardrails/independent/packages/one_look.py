"""gbstats and tea-tasting: one look by the delta method; gbstats' sequential interval, too."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from tests.guardrails.independent.packages.case import Case, a_case

ARMS = ("stable", "candidate")
NUM_USERS = 400  # per arm, each in a bucket of their own


def gbstats() -> Iterator[Case]:
    tests, statistics = import_module("gbstats.frequentist.tests"), import_module("gbstats.models.statistics")

    def of(clicks: Any, shown: Any) -> Any:
        def mean(x: Any) -> Any:
            return statistics.SampleMeanStatistic(n=len(x), sum=int(x.sum()), sum_squares=int((x * x).sum()))

        return statistics.RatioStatistic(
            n=len(clicks),
            m_statistic=mean(clicks),
            d_statistic=mean(shown),
            m_d_sum_of_products=int((clicks * shown).sum()),
        )

    for data in _user_data():
        stable, candidate = (of(np.array(data[arm]["clicks"]), np.array(data[arm]["shown"])) for arm in ARMS)
        for tuning in (5_000, 500):
            config = tests.SequentialConfig(difference_type="relative", alpha=0.05, sequential_tuning_parameter=tuning)
            test = tests.SequentialTwoSidedTTest(stable, candidate, config)
            inputs = {**data, "alpha": 0.05, "sequential_tuning_parameter": tuning}
            low, high = test.confidence_interval
            value = {"effect": test.point_estimate, "variance": test.variance, "rho": test.rho, "interval": [low, high]}
            yield a_case("SequentialTwoSidedTTest", inputs, value)


def tea_tasting() -> Iterator[Case]:
    tea = import_module("tea_tasting")
    pyarrow = import_module("pyarrow")
    for data in _user_data():
        columns = {"variant": [0] * NUM_USERS + [1] * NUM_USERS}
        columns |= {name: data["stable"][name] + data["candidate"][name] for name in ("clicks", "shown")}
        metric = tea.RatioOfMeans("clicks", "shown", use_t=False, equal_var=False, confidence_level=0.95)
        result = tea.Experiment(ctr=metric).analyze(pyarrow.table(columns))["ctr"]
        value = {"effect": result.rel_effect_size, "pvalue": result.pvalue}
        value |= {"interval": [result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper]}
        yield a_case("RatioOfMeans", data, value)
    yield from _cuped(tea, pyarrow)
    for stable, candidate, ratio in (
        (500, 520, 1.0),
        (5_000, 5_150, 1.0),
        (9_900, 140, 1 / 99),
        (75_000, 24_000, 1 / 3),
    ):
        users = pyarrow.table({"variant": [0] * stable + [1] * candidate})
        result = tea.Experiment(srm=tea.SampleRatio(ratio, method="norm", correction=False)).analyze(users)["srm"]
        yield a_case("SampleRatio", {"users": [stable, candidate], "ratio": ratio}, result.pvalue)


def _cuped(tea: Any, pyarrow: Any) -> Iterator[Case]:
    names = ("clicks", "shown", "clicks_before", "shown_before")
    metric = tea.RatioOfMeans(*names, use_t=False, equal_var=False, confidence_level=0.95)
    for data in _user_data(with_before=True):
        columns = {"variant": [0] * NUM_USERS + [1] * NUM_USERS}
        columns |= {name: data["stable"][name] + data["candidate"][name] for name in names}
        result = tea.Experiment(ctr=metric).analyze(pyarrow.table(columns))["ctr"]
        value = {"interval": [result.rel_effect_size_ci_lower, result.rel_effect_size_ci_upper]}
        yield a_case("CUPED", data, value)


def _user_data(*, with_before: bool = False) -> Iterator[Case]:
    """Impressions and clicks of users whose tastes and activity differ."""
    for seed, effect in ((1, 0.0), (2, -0.1), (3, 0.2)):
        rng = np.random.default_rng(seed)
        data: Case = {}
        for arm in ARMS:
            shown = 1 + rng.negative_binomial(2, 2 / 42, size=NUM_USERS)
            rate = rng.beta(4, 36, size=NUM_USERS) * (1 + effect * (arm == "candidate"))
            data[arm] = {"shown": shown.tolist(), "clicks": rng.binomial(shown, rate).tolist()}
            if with_before:
                before = 1 + rng.poisson(2 * shown)
                taste = rate / (1 + effect * (arm == "candidate"))
                clicks = rng.binomial(before, taste)
                data[arm] |= {"shown_before": before.tolist(), "clicks_before": clicks.tolist()}
        yield data
