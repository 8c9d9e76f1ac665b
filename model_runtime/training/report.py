"""What a training run came to, as one HTML file that needs nothing else: it opens offline and on a phone.

It shows the metrics of a joint checkpoint: those of calibrators fitted on the earlier half of what was held out, on
the later half. What an older checkpoint does not tell is left out.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from model_runtime.training.joint import JointCheckpoint
from model_runtime.training.pictures import loss_plot, reliability_plot, share_bar

REPORT_FILE = "report.html"
ALL = "all"  # of a surface's view types together
DEAD = 0.01  # mean weight of an expert, of every task of every surface, below which it may as well not be there

STYLE = """
:root { --ink: #1b1f24; --dim: #59636e; --paper: #ffffff; --line: #d1d9e0; --mark: #0b62c4; --warn: #a40e26; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --dim: #9198a1; --paper: #0d1117; --line: #3d444d; --mark: #58a6ff; --warn: #ff7b72; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; margin: 0; }
p, .dim { color: var(--dim); max-width: 45rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--dim); font-weight: 600; }
.warn { color: var(--warn); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; margin-top: 1rem; }
figure { margin: 0; } figcaption { font-weight: 600; }
svg.plot { width: 100%; height: auto; max-width: 24rem; }
svg.bar { width: 100%; height: 1rem; display: block; }
svg text { font-size: 11px; fill: var(--dim); }
.axis { stroke: var(--line); } .right { stroke: var(--dim); stroke-dasharray: 4 3; }
.whisker { stroke: var(--mark); } .point { fill: var(--mark); }
.curve { fill: none; stroke: var(--mark); stroke-width: 1.5; }
.expert0 { fill: #0072b2; } .expert1 { fill: #e69f00; } .expert2 { fill: #009e73; } .expert3 { fill: #cc79a7; }
.expert4 { fill: #56b4e9; } .expert5 { fill: #d55e00; } .expert6 { fill: #f0e442; } .expert7 { fill: #999999; }
@media (max-width: 40rem) {
  thead { display: none; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; }
  td:first-child { font-weight: 600; }
  td[data-name]::before { content: attr(data-name); color: var(--dim); }
  td.wide { display: block; }
  td.wide::before { display: none; }
}
"""

NOTES = """Measured on each surface's latest rows, which nothing was fitted on. <b>NE</b>, normalised entropy, is the
log loss over that of always answering the group's click rate: below 1 is better (He et al., 2014). <b>Calibration</b>
is expected clicks over clicks, with a 95 % interval as if each row were another user's; 1 is right. <b>Error</b> is the
root mean square, over 15 bins of as many rows each, of predicted probability minus click rate, relative to the group's
click rate; what chance alone adds is taken off, so 0 means that nothing is seen beyond it (debiased calibration
error: Kumar, Liang &amp; Ma, 2019, definition 5.1)."""
TRUTH_NOTE = """ These rows were generated, so the truth is known: <b>best NE</b> is what the true probabilities come to
on the same clicks, and <b>to truth</b> the expected clicks over the truly expected ones."""


def write_report(joint: JointCheckpoint, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(joint), encoding="utf-8")


def report(joint: JointCheckpoint) -> str:
    """The whole page."""
    held_out = _mapping(joint.metrics.get("held_out"))
    knows_truth = any("true_calibration" in group for groups in held_out.values() for group in groups.values())
    parts = [
        f"<h1>Training report</h1><p>{escape(joint.training_run)}</p>",
        f"<p>{NOTES}{TRUTH_NOTE if knows_truth else ''}</p>",
        *(
            _surface(surface, _mapping(groups), _mapping(joint.metrics.get("sizes")).get(surface), knows_truth)
            for surface, groups in sorted(held_out.items())
        ),
        _experts(_mapping(joint.metrics.get("experts"))),
        _losses(joint.metrics.get("losses")),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Training report: {escape(joint.training_run)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _surface(surface: str, groups: Mapping[str, Any], sizes: Sequence[int] | None, knows_truth: bool) -> str:
    trained = (
        ""
        if sizes is None
        else f"<p>{sizes[0]:,} rows to train on, {sizes[1]:,} to calibrate, {sizes[2]:,} to judge</p>"
    )
    names = ["view type", "rows", "clicks", "AUC", "NE", "calibration", "error"]
    names += ["best NE", "to truth"] if knows_truth else []
    groups = {name: groups[name] for name in sorted(groups, key=lambda name: (name != ALL, name))}
    rows = [_row(name, group, knows_truth) for name, group in groups.items()]
    told = {name: group for name, group in groups.items() if group.get("bins")}
    drawn = {name: reliability_plot(group["bins"], f"{surface} {name}") for name, group in told.items()}
    plots = [f"<figure><figcaption>{escape(name)}</figcaption>{plot}</figure>" for name, plot in drawn.items()]
    return (
        f"<section><h2>{escape(surface)}</h2>{trained}{_table(names, rows)}"
        f'<div class="plots">{"".join(plots)}</div></section>'
    )


def _row(name: str, group: Mapping[str, Any], knows_truth: bool) -> list[str]:
    cells = [
        escape(name),
        f"{group['rows']:,}",
        f"{group['clicks']:,}",
        _figure(group.get("auc")),
        _figure(group.get("normalised_entropy")),
        _calibration(group),
        _percent(group.get("calibration_error")),
    ]
    return cells + [_figure(group.get(key)) for key in ("best_normalised_entropy", "true_calibration")] * knows_truth


def _calibration(group: Mapping[str, Any]) -> str:
    """Marked where its interval leaves out 1."""
    ratio, interval = group.get("calibration"), group.get("calibration_interval")
    if ratio is None or interval is None:
        return _figure(ratio)
    low, high = interval
    told = f"{ratio:.3f} ({low:.3f} – {high:.3f})"
    return told if low <= 1 <= high else f'<span class="warn">{told}</span>'


def _experts(surfaces: Mapping[str, Any]) -> str:
    if not surfaces:
        return ""
    rows = [
        [escape(f"{surface}, {task}"), share_bar(shares), " / ".join(f"{100 * share:.0f} %" for share in shares)]
        for surface, tasks in sorted(surfaces.items())
        for task, shares in tasks.items()
    ]
    return (
        "<section><h2>How the gates share the experts</h2>"
        f"<p>Mean weight of each expert on held-out rows. {_dead(surfaces)}</p>"
        f"{_table(['gate', 'share', 'in numbers'], rows)}</section>"
    )


def _dead(surfaces: Mapping[str, Any]) -> str:
    shares = [shares for tasks in surfaces.values() for shares in tasks.values()]
    dead = [index for index, of_all in enumerate(zip(*shares, strict=False)) if max(of_all) < DEAD]
    if not dead:
        return "None is dead."
    return f'<span class="warn">Dead, below 1 % for every gate: {", ".join(map(str, dead))}.</span>'


def _losses(points: object) -> str:
    if not isinstance(points, list | tuple) or len(points) < 2:
        return ""
    return (
        "<section><h2>Loss</h2><p>Of training, all tasks by their weights; each point is a mean over a stretch of "
        f"steps.</p>{loss_plot([(int(step), float(loss)) for step, loss in points])}</section>"
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>"
        + f"<td>{row[0]}</td>"
        + "".join(
            f'<td data-name="{escape(name)}"{" class=wide" if "<svg" in cell else ""}>{cell}</td>'
            for name, cell in zip(names[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
