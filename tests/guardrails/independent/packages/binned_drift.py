"""NannyML and scipy: how far binned scores moved."""

from collections.abc import Iterator
from importlib import import_module

import numpy as np

from tests.guardrails.independent.packages.case import Case, a_case

ARMS = ("stable", "candidate")
NUM_BINS = 32


def nannyml() -> Iterator[Case]:
    pandas, chunk = import_module("pandas"), import_module("nannyml.chunk")
    methods, thresholds = import_module("nannyml.drift.univariate.methods"), import_module("nannyml.thresholds")
    for inputs in _binned_scores():
        stable, candidate = (np.repeat(np.arange(NUM_BINS), inputs["counts"][arm]) for arm in ARMS)
        value = {}
        for method, kind in (
            ("jensen_shannon", "categorical"),
            ("hellinger", "categorical"),
            ("l_infinity", "categorical"),
            ("kolmogorov_smirnov", "continuous"),
            ("wasserstein", "continuous"),
        ):
            drift = methods.MethodFactory.create(
                method,
                methods.FeatureType(kind),
                chunker=chunk.CountBasedChunker(chunk_number=1),
                threshold=thresholds.ConstantThreshold(upper=1),
            )
            drift.fit(pandas.Series(stable, name="bin"))
            value[method] = float(drift.calculate(pandas.Series(candidate, name="bin")))
        yield a_case("drift of bin indices: MethodFactory.create(…).fit(stable).calculate(candidate)", inputs, value)


def scipy() -> Iterator[Case]:
    stats, distance = import_module("scipy.stats"), import_module("scipy.spatial.distance")
    bins = np.arange(NUM_BINS)
    for inputs in _binned_scores():
        counts = [np.array(inputs["counts"][arm]) for arm in ARMS]
        value = {
            "jensen_shannon": distance.jensenshannon(*counts, base=2),
            "wasserstein": stats.wasserstein_distance(bins, bins, *counts),
            "kolmogorov_smirnov": stats.ks_2samp(
                *(np.repeat(bins, count) for count in counts), method="asymp"
            ).statistic,
        }
        yield a_case("drift of bin indices", inputs, {name: float(number) for name, number in value.items()})
        pairs = np.array(inputs["pairs"])
        rows, columns = (np.repeat(index.ravel(), pairs.ravel()) for index in np.indices(pairs.shape))
        value = {
            "kendall_tau_b": stats.kendalltau(rows, columns).statistic,
            "spearman": stats.spearmanr(rows, columns).statistic,
            "somers_d_of_candidate_given_stable": stats.somersd(pairs).statistic,
            "mean_difference_of_bins": columns.mean() - rows.mean(),
        }
        yield a_case("agreement of paired bin indices", inputs, {name: float(number) for name, number in value.items()})


def _binned_scores() -> Iterator[Case]:
    """Stable's bin × candidate's bin of the same 3 000 impressions, and each version's counts by bin."""
    for seed, shift, noise in ((1, 0.0, 0.0), (2, 0.0, 1.0), (3, 1.5, 0.5), (4, -4.0, 3.0)):
        rng = np.random.default_rng(seed)
        stable = rng.normal(14, 3, size=3_000)
        candidate = stable + shift + noise * rng.normal(size=3_000)
        rows, columns = (np.clip(x, 0, NUM_BINS - 1).astype(np.int64) for x in (stable, candidate))
        pairs = np.zeros((NUM_BINS, NUM_BINS), dtype=np.int64)
        np.add.at(pairs, (rows, columns), 1)
        counts = {"stable": pairs.sum(axis=1).tolist(), "candidate": pairs.sum(axis=0).tolist()}
        yield {"counts": counts, "pairs": pairs.tolist()}
