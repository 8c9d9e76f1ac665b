"""ssrm-test: the sequential multinomial test by Optimizely, authors of Lindon & Malek 2022."""

from collections.abc import Iterator
from importlib import import_module

import numpy as np

from tests.guardrails.independent.packages.case import Case, a_case


def ssrm() -> Iterator[Case]:
    np.Inf = np.inf  # type: ignore[attr-defined]  # numpy 2 has dropped the name that ssrm-test uses
    ssrm = import_module("ssrm_test.ssrm_test")
    rng = np.random.default_rng(20)
    for share_bp, concentration, truth in (
        (5_000, 1_000, 0.5),
        (5_000, 1_000, 0.48),
        (2_500, 1_000, 0.26),
        (100, 10_000, 0.01),
        (100, 10_000, 0.013),
    ):
        candidate = rng.binomial(2_000, truth, size=8)
        data = np.stack([2_000 - candidate, candidate], axis=1)
        split = [1 - share_bp / 10_000, share_bp / 10_000]
        posteriors = ssrm.sequential_posteriors(data, split, dirichlet_concentration=concentration)
        inputs = {"share_bp": share_bp, "concentration": concentration, "users": data.tolist()}
        yield a_case("sequential_posteriors", inputs, [posterior["log_bayes_factor"] for posterior in posteriors])
        p_values = ssrm.sequential_p_values(data, split, dirichlet_concentration=concentration)
        yield a_case("sequential_p_values", inputs, p_values)
