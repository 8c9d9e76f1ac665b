"""The judge's statistics as their sources define them: loops and fractions, slow, exact, and of no use elsewhere.

Tables are nested lists in the order of the judge's letters: S strata, A arms, K buckets, B bins.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

Row = Sequence[int]
Table = Sequence[Sequence[Row]]


def log_of(ratio: Fraction) -> float:
    """Right to the last bits near 1, too, where a float's log is not."""
    return math.log1p(float(ratio - 1)) if Fraction(1, 2) < ratio < 2 else math.log(ratio)


def mantel_haenszel(
    numerator_SAK: Table, denominator_SAK: Table, without: int | None = None, *, added: Fraction = Fraction(0)
) -> float:
    """log of Σ Y_T N_C/(N_T+N_C) over Σ Y_C N_T/(N_T+N_C), one bucket left out of both arms and all strata.

    `added` is put on both numerators as if all strata with both arms were one.
    """
    above = below = Fraction(0)
    shown = [0, 0]
    for numerator_AK, denominator_AK in zip(numerator_SAK, denominator_SAK, strict=True):
        y_stable, y_candidate = (kept(row, without) for row in numerator_AK)
        n_stable, n_candidate = (kept(row, without) for row in denominator_AK)
        if n_stable and n_candidate:
            above += Fraction(y_candidate * n_stable, n_stable + n_candidate)
            below += Fraction(y_stable * n_candidate, n_stable + n_candidate)
            shown = [shown[0] + n_stable, shown[1] + n_candidate]
    return log_of((above + added * shown[0] / sum(shown)) / (below + added * shown[1] / sum(shown)))


def expected_numerator(numerator_SAK: Table, denominator_SAK: Table) -> Fraction:
    """Σ Y_C N_T/N_C: the candidate's numerator if it had stable's rates."""
    total = Fraction(0)
    for (y_stable, _), (n_stable, n_candidate) in zip(numerator_SAK, denominator_SAK, strict=True):
        if sum(n_stable):
            total += Fraction(sum(y_stable) * sum(n_candidate), sum(n_stable))
    return total


def kept(row: Row, without: int | None) -> int:
    total = 0
    for bucket, value in enumerate(row):
        if bucket != without:
            total += int(value)
    return total


def jackknife(statistic: Callable[[int | None], float], buckets: Sequence[int]) -> float:
    """√((K−1)/K Σ (θ₍₋ₖ₎ − mean)²) over the buckets that hold data."""
    replicates = [statistic(bucket) for bucket in buckets]
    mean = math.fsum(replicates) / len(replicates)
    return math.sqrt((len(buckets) - 1) / len(buckets) * math.fsum((theta - mean) ** 2 for theta in replicates))


def predictive_product(share: Fraction, concentration: int, arrivals: Sequence[bool]) -> Fraction:
    """Over users in order of arrival: Pólya's urn's chance of where each went, over what the split promised."""
    e_value, seen = Fraction(1), [0, 0]
    for goes_to_candidate in arrivals:
        promised = share if goes_to_candidate else 1 - share
        drawn = (concentration * promised + seen[goes_to_candidate]) / (concentration + sum(seen))
        e_value *= drawn / promised
        seen[goes_to_candidate] += 1
    return e_value


def e_bh(e_values: Sequence[Fraction], num_hypotheses: int, fdr: Fraction) -> list[bool]:
    """Reject the k̂ largest, k̂ the largest k whose k-th largest e-value is at least K/(k·α)."""
    ranked = sorted(e_values, reverse=True)
    passing = [k for k in range(1, len(ranked) + 1) if ranked[k - 1] * k * fdr >= num_hypotheses]
    return [bool(passing) and e >= ranked[max(passing) - 1] for e in e_values]


def normalised_entropy(losses: Sequence[float], clicks: Sequence[int]) -> float:
    rate = sum(clicks) / len(clicks)
    return math.fsum(losses) / len(losses) / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def stability(stable_B: Row, candidate_B: Row, group_B: Row) -> float:
    """Σ (q − p) log(q/p) over groups of bins, half a score added to each."""
    groups = sorted(set(group_B))
    count = {group: [0.5, 0.5] for group in groups}
    for stable, candidate, group in zip(stable_B, candidate_B, group_B, strict=True):
        count[group][0] += stable
        count[group][1] += candidate
    sums = [math.fsum(count[group][arm] for group in groups) for arm in (0, 1)]
    psi = []
    for group in groups:
        p, q = count[group][0] / sums[0], count[group][1] / sums[1]
        psi.append((q - p) * math.log(q / p))
    return math.fsum(psi)


def tenths(stable_B: Row) -> list[int]:
    """Each bin's group by how many tenths of stable's scores lie in the bins below it."""
    return [min(9, 10 * sum(stable_B[:b]) // sum(stable_B)) for b in range(len(stable_B))]


def as_table(array_SAK: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Table:
    table: Table = array_SAK.tolist()
    return table


def jensen_shannon(stable_B: Row, candidate_B: Row) -> float:
    """Mean Kullback–Leibler divergence from the mixture of both, nats."""
    terms = []
    for stable, candidate in zip(stable_B, candidate_B, strict=True):
        p, q = stable / sum(stable_B), candidate / sum(candidate_B)
        terms += [share / 2 * math.log(share / ((p + q) / 2)) for share in (p, q) if share]
    return math.fsum(terms)


def ahead(stable_B: Row, candidate_B: Row) -> list[float]:
    """How much larger a share of stable's scores than of the candidate's lies in each bin or below."""
    return [
        float(Fraction(sum(stable_B[: b + 1]), sum(stable_B)) - Fraction(sum(candidate_B[: b + 1]), sum(candidate_B)))
        for b in range(len(stable_B))
    ]


def kendall(pairs: Sequence[tuple[int, int]]) -> float:
    """τ-b: concordant less discordant pairs of pairs over the geometric mean of those not tied in each."""
    surplus = untied_left = untied_right = 0
    for i, (left, right) in enumerate(pairs):
        for other_left, other_right in pairs[:i]:
            surplus += sign(left - other_left) * sign(right - other_right)
            untied_left += left != other_left
            untied_right += right != other_right
    return surplus / math.sqrt(untied_left * untied_right)


def sign(number: float) -> int:
    return (number > 0) - (number < 0)
