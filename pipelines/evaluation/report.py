"""The report of a run: one HTML file with everything inside, readable without a network.

:class:`ReportData` is what a run knows, as arrays and plain values; :func:`write_report` turns it into the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation import figures
from pipelines.evaluation.maps import agreement
from pipelines.evaluation.quality import Check
from pipelines.evaluation.report_tables import checks_table, score_section, stage_table, verdict
from pipelines.evaluation.scores_io import Score
from pipelines.storage import Storage

MAX_PX = 640  # longer side of a picture in the page; larger arrays are thinned, which keeps the file near 5 MB
MIN_PX = 420  # smaller pictures are enlarged by whole pixels


@dataclass(frozen=True)
class StageRow:
    """One stage of the run: its time, its peak resident memory over all processes, its counts."""

    name: str
    seconds: float
    peak_bytes: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """A finished picture, ``(H, W, 3)`` uint8, with a title and a line of explanation."""

    title: str
    image: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True)
class EmbeddingMap:
    """``(H, W, D)`` vectors of one area and period, NaN without data."""

    title: str
    vectors: NDArray[np.float32]
    caption: str = ""


@dataclass(frozen=True)
class TruthMap:
    """Truth beside the map made from a few labels; class codes, 0 no data.

    ``legend`` gives name and ``#rrggbb`` colour (or None) by code; ``labels`` says what the map was made from;
    ``held_out`` is the ground that neither model nor labels were taken from, None where nothing was held out.
    """

    title: str
    truth: NDArray[np.integer]
    predicted: NDArray[np.integer]
    legend: Mapping[int, tuple[str, str | None]]
    labels: str
    held_out: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ChangeMap:
    """``(1 - cos) / 2`` between two periods, with the ground that truly changed where it is known."""

    title: str
    score: NDArray[np.floating]
    truth: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything on the page; what is empty is left out of it.

    Attributes:
        title, lead: heading and the sentence below it.
        facts: short pairs of what was run: area, periods, model, seed, hardware ...
        stages: in the order of the run.
        mosaics: pictures of the input, made with :func:`pipelines.evaluation.figures.composite_rgb`.
        embeddings: all areas and periods; they share one set of principal components.
        truths, changes: maps.
        losses: by term, steps and values.
        scores: rows of ``reports/scores.json``.
        checks: of :mod:`pipelines.evaluation.quality`.
        notes: things that a reader must know, in sentences.
    """

    title: str
    lead: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    stages: Sequence[StageRow] = ()
    mosaics: Sequence[Panel] = ()
    embeddings: Sequence[EmbeddingMap] = ()
    truths: Sequence[TruthMap] = ()
    changes: Sequence[ChangeMap] = ()
    losses: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()


def write_report(storage: Storage, path: str, data: ReportData) -> None:
    """Writes the page, replacing the object in one step."""
    storage.write_bytes_atomic(path, render(data).encode())


def render(data: ReportData) -> str:
    """The page as text."""
    sections = [
        ("summary", "Summary", _summary(data)),
        ("input", "What the satellites saw", _mosaics(data)),
        ("embeddings", "Embeddings", _embeddings(data)),
        ("maps", "Maps from a few labels", _truths(data)),
        ("change", "Change", _changes(data)),
        ("scores", "Scores", score_section(data.scores)),
        ("quality", "Quality checks", checks_table(data.checks)),
        ("training", "Training", _losses(data)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{html}</section>' for key, title, html in sections)
    lead = f'<p class="lead">{escape(data.lead)}</p>' if data.lead else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(data.title)}</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(data.title)}</h1>{lead}</header><nav>{links}</nav><main>{body}</main></body></html>\n"
    )


def _picture(image: NDArray[np.uint8], title: str, caption: str = "") -> str:
    image = figures.shrink(image, MAX_PX)
    scale = max(1, MIN_PX // max(image.shape[:2]))
    source = figures.data_uri(figures.png(image, scale))
    text = f"<span>{escape(caption)}</span>" if caption else ""
    caption_html = f"<figcaption><b>{escape(title)}</b>{text}</figcaption>"
    return f'<figure><img alt="{escape(title)}" src="{source}">{caption_html}</figure>'


def _grid(pictures: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(pictures)}</div>' if pictures else ""


def _summary(data: ReportData) -> str:
    facts = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in data.facts.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.notes)
    stages = [(row.name, row.seconds, row.peak_bytes, row.counts) for row in data.stages]
    return (
        (f'<dl class="facts">{facts}</dl>' if facts else "")
        + verdict(data.scores)
        + stage_table(stages)
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _mosaics(data: ReportData) -> str:
    return _grid([_picture(panel.image, panel.title, panel.caption) for panel in data.mosaics])


def _embeddings(data: ReportData) -> str:
    if not data.embeddings:
        return ""
    thinned = [figures.shrink(one.vectors, MAX_PX) for one in data.embeddings]
    colours = figures.pca_rgb(thinned)
    shown = [_picture(image, one.title, one.caption) for image, one in zip(colours, data.embeddings, strict=True)]
    text = (
        "<p>The first three principal components of the 64 numbers as red, green and blue, computed over all maps "
        "together: equal colours mean equal vectors, from year to year and from area to area.</p>"
    )
    return text + _grid(shown)


def _truths(data: ReportData) -> str:
    parts = []
    for one in data.truths:
        codes = [int(code) for code in np.union1d(np.unique(one.truth), np.unique(one.predicted)) if code != 0]
        spare = figures.default_colours(codes)
        colours = {code: (one.legend.get(code, ("", None))[1] or spare[code]) for code in codes}
        truth = figures.shrink(one.truth, MAX_PX)
        predicted = figures.shrink(one.predicted, MAX_PX)
        wrong = np.full((*truth.shape, 3), 255, np.uint8)
        known = (truth != 0) & (predicted != 0)
        wrong[known] = (223, 232, 230)
        wrong[known & (truth != predicted)] = (190, 60, 40)
        wrong[~known] = figures.EMPTY
        swatches = "".join(
            f'<li><i style="background:{colours[code]}"></i>{escape(one.legend.get(code, (str(code), None))[0])}</li>'
            for code in codes
        )
        pictures = [
            _picture(figures.class_rgb(truth, colours), "truth"),
            _picture(figures.class_rgb(predicted, colours), "map", one.labels),
            _picture(wrong, "disagreement", "red where map and truth differ"),
        ]
        parts.append(
            f"<h3>{escape(one.title)}</h3><p>{escape(_accuracy(one))}.</p>"
            f'{_grid(pictures)}<ul class="legend">{swatches}</ul>'
        )
    return "".join(parts)


def _accuracy(one: TruthMap) -> str:
    """How right a map is, first where nothing was trained; the rest of it may hold ground of the training."""
    overall, balanced = agreement(one.truth, one.predicted)
    everywhere = f"overall accuracy {overall:.1%}, balanced {balanced:.1%}"
    if one.held_out is None or not (one.held_out & (one.truth != 0) & (one.predicted != 0)).any():
        return f"On ground open to training, none of it held out: {everywhere}"
    out, out_balanced = agreement(np.where(one.held_out, one.truth, 0), one.predicted)
    return (
        f"On held-out ground alone: overall accuracy {out:.1%}, balanced {out_balanced:.1%}. "
        f"On all ground, training ground included: {everywhere}"
    )


def _changes(data: ReportData) -> str:
    pictures = []
    for one in data.changes:
        score = figures.shrink(one.score, MAX_PX)
        pictures.append(_picture(figures.heat_rgb(score), one.title, "(1 - cos) / 2: pale the same, dark different"))
        if one.truth is not None:
            truth = figures.shrink(one.truth, MAX_PX)
            picture = figures.heat_rgb(np.where(truth, 1.0, 0.0), 0.0, 1.25)
            known = np.isfinite(one.score)
            apart = (float(np.mean(one.score[known & mask])) for mask in (one.truth, ~one.truth))
            caption = "ground that truly changed"
            if (known & one.truth).any() and (known & ~one.truth).any():
                changed, stable = apart
                caption += f"; mean difference {changed:.3f} there, {stable:.3f} elsewhere"
            pictures.append(_picture(picture, f"{one.title}: truth", caption))
    legend = (
        "<p>Found change: pale where the vectors of both periods agree, dark where they differ. Beside it, where it is "
        "known, true change: dark where the class of the ground changed, pale elsewhere.</p>"
    )
    return legend + _grid(pictures) if pictures else ""


def _losses(data: ReportData) -> str:
    losses = {name: pair for name, pair in data.losses.items() if len(pair[0])}
    if not losses:
        return ""
    source = figures.data_uri(figures.loss_curves(losses))
    return f'<figure class="wide"><img alt="training losses by term" src="{source}"></figure>'


CSS = """
:root{--ink:#1c2733;--muted:#66727f;--line:#dde3e8;--accent:#0b7a75;--tint:#e6f3f1;--warn:#b3402a}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;background:#f6f8f9;color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,nav{max-width:1180px;margin:0 auto;padding:0 28px}
header{padding-top:44px;padding-bottom:10px}h1{margin:0 0 6px;font-size:30px;letter-spacing:-.02em;line-height:1.2}
.lead{margin:0;color:var(--muted);font-size:17px;max-width:74ch}
nav{position:sticky;top:0;background:#f6f8f9ee;backdrop-filter:blur(4px);padding-top:10px;padding-bottom:10px;
display:flex;gap:20px;flex-wrap:wrap;z-index:2;border-bottom:1px solid var(--line)}
nav a{color:var(--muted);text-decoration:none;font-size:14px}nav a:hover{color:var(--accent)}
section{background:#fff;border:1px solid var(--line);border-radius:10px;padding:22px 26px 26px;margin:22px 0;
scroll-margin-top:56px}
h2{margin:0 0 12px;font-size:20px;letter-spacing:-.01em}h3{margin:26px 0 6px;font-size:16px}
p{margin:0 0 12px;max-width:84ch}.muted,figcaption span{color:var(--muted)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:18px;align-items:start}
figure{margin:0}figure img{width:100%;max-width:560px;display:block;border-radius:6px;border:1px solid var(--line);
image-rendering:pixelated}figure.wide img{max-width:100%;image-rendering:auto;border:0}
figcaption{margin-top:6px;font-size:13px}figcaption span{display:block}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:12px 22px;margin:0 0 18px}
.facts div{border-left:3px solid var(--accent);padding-left:10px}dt{color:var(--muted);font-size:12.5px}
dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--muted);font-weight:500}th:first-child,td:first-child{text-align:left}
tr.own td:first-child{font-weight:700;color:var(--accent)}td.best{font-weight:700}
td small{color:var(--muted);font-weight:400;font-size:11.5px}td.bad{color:var(--warn);font-weight:600}
td.good{color:var(--accent);background:var(--tint);font-weight:600}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:5px 16px;
padding:0;margin:12px 0 0;font-size:13px}.legend i{display:inline-block;width:13px;height:13px;border-radius:3px;
margin-right:6px;vertical-align:-1px;border:1px solid #0002}
.verdict{margin-bottom:20px}.verdict td{font-size:15px}.verdict small{display:block;font-size:12px}
.notes{margin:16px 0 0;padding-left:20px;color:var(--muted)}details{margin-top:8px}summary{cursor:pointer;
color:var(--muted);font-size:13.5px}
@media print{nav{display:none}section{break-inside:avoid}}
""".replace("\n", "")
