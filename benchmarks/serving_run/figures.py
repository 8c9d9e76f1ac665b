"""The table for people and the figures for machines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median as exact_median

from benchmarks.report import median, report, spread
from benchmarks.serving_run.rounds import LARGE, SMALL, Pair, Pairs, cpu_ratio, failed, p99_ratio, rate_ratios
from benchmarks.serving_run.shadow import Shadowed, p99_ms

COLUMNS = (
    *("beside", "load", "ours rows/s", "theirs", "ratio", "spread"),
    *("our p99 ms", "theirs", "our CPU ms", "theirs", "client CPU", "failed"),
)
Compared = Mapping[str, Pairs]  # by peer and way of using it


def show(compared: Compared, shadowed: Shadowed, *, missing: Mapping[str, str]) -> None:
    for peer, problem in missing.items():
        print(f"{peer} is not in the comparison:\n{problem}\n")
    rows = [row(name, load, pairs[load]) for name, pairs in compared.items() for load in pairs]
    report("serving", columns=COLUMNS, rows=[*rows, *_shadow_rows(shadowed)], figures=figures(compared, shadowed))


def figures(compared: Compared, shadowed: Shadowed) -> dict[str, float]:
    """Ratios are ours over the best peer's, so the least of them; of p99 and CPU over the least peer's, so the most."""
    found: dict[str, float] = {}
    for way in ("documented", "broadcast"):
        for load in (each.name for each in LARGE):
            of_load = list(_of(compared, way, load))
            found |= _named(f"rows_ratio_{way}_{load}", of_load, lambda pairs: median(rate_ratios(pairs)), min)
            found |= _named(f"p99_ratio_{way}_{load}", of_load, p99_ratio, max)
            found |= _named(f"cpu_ratio_{way}_{load}", of_load, cpu_ratio, max)
    small = list(_of(compared, "broadcast", SMALL.name))
    found |= _named("small_rows_ratio_broadcast", small, lambda pairs: median(rate_ratios(pairs)), min)
    found |= _named("small_p99_ratio_broadcast", small, p99_ratio, max)
    found |= _named("small_cpu_ratio_broadcast", small, cpu_ratio, max)
    found["shadow_p99_ratio"] = median(shadowed.p99_ratios)
    found["shadow_dropped"] = float(shadowed.dropped)
    found["shadow_uncounted"] = float(shadowed.uncounted)
    found["failed"] = float(sum(map(failed, compared.values())) + shadowed.failed)
    return found | _absolute(compared)


def _of(compared: Compared, way: str, load: str) -> Iterable[Sequence[Pair]]:
    return (pairs[load] for name, pairs in compared.items() if name.endswith(way) and load in pairs)


def _named(
    name: str,
    of_peers: Sequence[Sequence[Pair]],
    ratio: Callable[[Sequence[Pair]], float],
    hardest: Callable[[Iterable[float]], float],
) -> dict[str, float]:
    return {name: float(f"{hardest(map(ratio, of_peers)):.4g}")} if of_peers else {}


def _absolute(compared: Compared) -> dict[str, float]:
    """Each server's own; ours from the rounds beside every peer."""
    found: dict[str, float] = {}
    for load in (*(each.name for each in LARGE), SMALL.name):
        ours = [pair.ours for pairs in compared.values() for pair in pairs.get(load, [])]
        if ours:
            found[f"surefoot_{load}_rows_per_s"] = median([each.rows_per_s for each in ours])
            found[f"surefoot_{load}_p99_ms"] = median([each.p99_ms for each in ours])
    for name, pairs in compared.items():
        for load, of_load in pairs.items():
            slug = f"{name.replace(' ', '_')}_{load}"
            found[f"{slug}_rows_per_s"] = median([pair.theirs.rows_per_s for pair in of_load])
            found[f"{slug}_p99_ms"] = median([pair.theirs.p99_ms for pair in of_load])
    return found


def row(name: str, load: str, pairs: Sequence[Pair]) -> list[str]:
    ratios = rate_ratios(pairs)

    def both(value: str, form: str) -> list[str]:
        ours = exact_median(getattr(pair.ours, value) for pair in pairs)
        return [format(ours, form), format(exact_median(getattr(pair.theirs, value) for pair in pairs), form)]

    client = exact_median(pair.ours.client_cpu_share for pair in pairs)
    return [
        *(name, load, *both("rows_per_s", ".0f"), f"{exact_median(ratios):.3g}×", spread(ratios)),
        *(*both("p99_ms", ".3g"), *both("cpu_ms", ".3g"), f"{client:.0%}"),
        f"{sum(pair.ours.failed for pair in pairs)} / {sum(pair.theirs.failed for pair in pairs)}",
    ]


def _shadow_rows(shadowed: Shadowed) -> list[list[str]]:
    alone, beside = (exact_median(map(p99_ms, each)) for each in (shadowed.alone, shadowed.beside))
    what = f"{shadowed.rate_per_s:.0f}/s, {shadowed.scored} scored, {shadowed.dropped} dropped"
    ratio = f"{exact_median(shadowed.p99_ratios):.3g}×"
    cells = ["a shadow: with / without", what, "", "", ratio, spread(shadowed.p99_ratios)]
    return [[*cells, f"{beside:.3g}", f"{alone:.3g}", "", "", "", str(shadowed.failed)]]
