"""The tables of the report as HTML: stages, scores, checks, and the one-line answers above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipelines.evaluation import figures
from pipelines.evaluation.quality import Check
from pipelines.evaluation.reduction import MEAN, METRIC
from pipelines.evaluation.scores_io import Score

MAIN = ("balanced_accuracy", "r2")
NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "r2": "R²",
    "mae": "mean absolute error",
    "kappa_error": "kappa-adjusted error",
}
OURS = ("embedding", "untrained")
RULE = (
    "Green: the whole 95 % interval of the embedding lies above that of the best designed baseline. Red: the whole "
    "interval lies below. No colour: the intervals overlap, or one of them is not known, so that neither is ahead."
)

GLOSSARY = (
    "<details><summary>what the words mean</summary><p>1-shot, 10-shot, max: labels of each class that a probe learns "
    "from: one, ten, or all up to a limit. Balanced accuracy: the share of points found right, each class counting "
    "alike. R\u00b2: the share of the variance of a quantity that is explained, 1 is all, 0 as good as the mean. "
    "Less error: how much of the best baseline's kappa-adjusted balanced error is gone, which takes luck into account. "
    "Untrained: the same model before training.</p></details>"
)


def _title(name: str) -> str:
    return escape(name.replace("_", " "))


def _shots(shots: int | str) -> str:
    return "max" if shots == "max" else f"{shots}-shot"


def stage_table(stages: Sequence[tuple[str, float, int | None, Mapping[str, int]]]) -> str:
    """Name, seconds, peak bytes and counts of each stage, with a total."""
    if not stages:
        return ""
    keys = list(dict.fromkeys(key for _, _, _, counts in stages for key in counts))
    head = "".join(f"<th>{_title(key)}</th>" for key in keys)
    rows = []
    for name, seconds, peak, counts in stages:
        cells = "".join(
            f"<td{_failed(key, counts)}>{counts[key]:,}</td>" if key in counts else "<td>&ndash;</td>" for key in keys
        )
        rows.append(f"<tr><td>{escape(name)}</td><td>{seconds:,.1f}</td><td>{_bytes(peak)}</td>{cells}</tr>")
    total = sum(seconds for _, seconds, _, _ in stages)
    peaks = [peak for _, _, peak, _ in stages if peak is not None]
    blank = "<td></td>" * len(keys)
    rows.append(
        f"<tr><td><b>all before this report</b></td><td><b>{total:,.1f}</b></td>"
        f"<td><b>{_bytes(max(peaks) if peaks else None)}</b></td>{blank}</tr>"
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>stage</th><th>seconds</th><th>peak memory</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _failed(key: str, counts: Mapping[str, int]) -> str:
    return ' class="bad"' if key == "failed" and counts[key] else ""


def _bytes(count: int | None) -> str:
    if count is None:
        return "&ndash;"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def verdict(scores: Sequence[Score]) -> str:
    """For each task and number of shots: by how much the embedding beats, or loses to, its best baseline."""
    columns = list(dict.fromkeys(score.shots for score in scores))
    rows = []
    for task in dict.fromkeys(score.task for score in scores):
        cells = [_margin(scores, task, shots) for shots in columns]
        if any(cells):
            rows.append(f"<tr><td>{_title(task)}</td>{''.join(cell or '<td></td>' for cell in cells)}</tr>")
    if not rows:
        return ""
    means = {score.shots: score.mean for score in scores if (score.task, score.metric) == (MEAN, METRIC)}
    if means:
        cells = [f"<td>{_less_error(means[shots])}</td>" if shots in means else "<td></td>" for shots in columns]
        rows.append(f"<tr><td><b>mean, tasks with classes</b></td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{_shots(shots)}</th>" for shots in columns)
    return (
        "<p>The embedding minus the best designed baseline of the same run (balanced accuracy or R\u00b2, "
        "best head of each, held-out points). Less error: of the kappa-adjusted balanced error.</p>"
        f'<div class="scroll"><table class="verdict"><thead><tr><th>task</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div><p class='muted'>{RULE}</p>"
    )


def standing(own: Score, rival: Score) -> int:
    """1 where the interval of ``own`` lies wholly above that of ``rival``, -1 wholly below, 0 where neither is told."""
    if own.low is None or own.high is None or rival.low is None or rival.high is None:
        return 0
    return int(own.low > rival.high) - int(own.high < rival.low)


def _margin(scores: Sequence[Score], task: str, shots: int | str) -> str:
    pair = _own_and_rival([score for score in _best_rows(scores, task) if score.shots == shots])
    if pair is None:
        return ""
    own, rival = pair
    gap = own.mean - rival.mean
    error = ""
    for score in scores:
        if (score.task, score.shots, score.metric) == (task, shots, METRIC):
            error = f", {_less_error(score.mean)}"
    tone = {1: ' class="good"', 0: "", -1: ' class="bad"'}[standing(own, rival)]
    return (
        f"<td{tone}>{gap:+.3f}{error}<small>{own.mean:.3f} against {rival.mean:.3f} of {_title(rival.features)}"
        "</small></td>"
    )


def _own_and_rival(rows: Sequence[Score]) -> tuple[Score, Score] | None:
    """The embedding and its best designed baseline among rows of one task and number of shots."""
    own = [row for row in rows if row.features == "embedding"]
    rivals = [row for row in rows if row.features not in OURS]
    return (own[0], max(rivals, key=lambda row: row.mean)) if own and rivals else None


def _less_error(reduction: float) -> str:
    return f"{abs(reduction):.0%} {'less' if reduction > 0 else 'more'} error"


def _best_rows(scores: Sequence[Score], task: str) -> list[Score]:
    return [score for score in scores if score.task == task and score.head == "best" and score.metric in MAIN]


def score_section(scores: Sequence[Score]) -> str:
    """For each task a chart, a table of best heads, and a folded table of every head and metric."""
    parts = []
    for task in dict.fromkeys(score.task for score in scores):
        best = _best_rows(scores, task)
        if not best:
            continue
        metric, count = best[0].metric, best[0].n
        columns = list(dict.fromkeys(score.shots for score in best))
        names = list(dict.fromkeys(score.features for score in best))
        last = {score.features: score.mean for score in best if score.shots == columns[-1]}
        order = sorted(
            names, key=lambda name: (name not in OURS, OURS.index(name) if name in OURS else -last.get(name, 0))
        )
        chart = figures.data_uri(figures.score_chart(best, NAMES[metric], order))
        parts.append(
            f"<h3>{_title(task)}</h3><p class='muted'>{NAMES[metric]}, {count:,} held-out points "
            f"({_title(best[0].split)}), best head of each feature set; 95 % intervals by bootstrap over sites.</p>"
            f'<figure class="wide"><img alt="scores of {_title(task)}" src="{chart}"></figure>'
            f"{_best_table(best, columns, order)}{_all_heads(scores, task)}"
        )
    return "".join(parts) + (GLOSSARY if parts else "")


def _best_table(best: Sequence[Score], columns: Sequence[int | str], order: Sequence[str]) -> str:
    cells = {(score.features, score.shots): score for score in best}
    top = {shots: max(score.mean for score in best if score.shots == shots) for shots in columns}
    rows = []
    for name in order:
        row = []
        for shots in columns:
            score = cells.get((name, shots))
            if score is None:
                row.append("<td>&ndash;</td>")
                continue
            marks = ["best"] * (score.mean == top[shots])
            pair = _own_and_rival([one for one in best if one.shots == shots])
            if name == "embedding" and pair is not None:
                marks += {1: ["good"], 0: [], -1: ["bad"]}[standing(*pair)]
            mark = f' class="{" ".join(marks)}"' if marks else ""
            row.append(f"<td{mark}>{score.mean:.3f} {_range(score)}</td>")
        own = ' class="own"' if name == "embedding" else ""
        rows.append(f"<tr{own}><td>{_title(name)}</td>{''.join(row)}</tr>")
    head = "".join(f"<th>{_shots(shots)}</th>" for shots in columns)
    return (
        f'<div class="scroll"><table><thead><tr><th>features</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div><p class='muted'>Bold: the highest mean of the column. {RULE}</p>"
    )


def _range(score: Score) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"<small>{score.low:.3f} to {score.high:.3f}</small>"


def _all_heads(scores: Sequence[Score], task: str) -> str:
    chosen = [score for score in scores if score.task == task and score.head != "best"]
    rows = "".join(
        f"<tr><td>{_title(score.features)}</td><td>{_shots(score.shots)}</td><td>{escape(score.head)}</td>"
        f"<td>{NAMES.get(score.metric, _title(score.metric))}</td><td>{score.mean:.3f}</td>"
        f"<td>{_range(score)}</td></tr>"
        for score in chosen
    )
    return (
        f"<details><summary>every head and metric ({len(chosen)} rows)</summary><div class='scroll'><table><thead><tr>"
        "<th>features</th><th>shots</th><th>head</th><th>metric</th><th>mean</th><th>interval</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def checks_table(checks: Sequence[Check]) -> str:
    """Name, value, expectation and verdict of each check."""
    if not checks:
        return ""
    rows = []
    for check in checks:
        mark = {
            None: "<td>&ndash;</td>",
            True: '<td class="good">sound</td>',
            False: '<td class="bad">look at this</td>',
        }
        rows.append(
            f"<tr><td>{escape(check.name)}</td><td>{check.value:.3f}</td><td>{escape(check.expected)}</td>"
            f"{mark[check.passed]}</tr>"
        )
    return (
        '<div class="scroll"><table><thead><tr><th>check</th><th>value</th><th>expected</th><th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
