import base64
import io
import uuid
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation import figures
from pipelines.evaluation.quality import Check
from pipelines.evaluation.report import (
    ChangeMap,
    EmbeddingMap,
    Panel,
    ReportData,
    StageRow,
    TruthMap,
    render,
    write_report,
)
from pipelines.evaluation.scores_io import Score, read_scores, write_scores
from pipelines.storage import Storage


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.images, self.links, self.text, self.tags, self.ids = [], [], [], "", set(), set()
        self.marked = {"best": [], "good": [], "bad": []}

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.ids.add(attributes.get("id"))
        if tag == "img":
            assert attributes["alt"]
            self.images.append(attributes["src"])
        self.links += [value for key, value in attributes.items() if key in ("href", "src", "srcset", "data", "action")]
        if tag not in ("img", "meta", "br"):
            self.open.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1][0] == "td":
            for mark in (self.open[-1][1].get("class") or "").split():
                self.marked[mark].append(data.strip())


def scores():
    rows = []
    for shots, own, rival in ((1, 0.6, 0.5), ("max", 0.7, 0.75)):
        for name, value in (("embedding", own), ("untrained", 0.2), ("harmonics", rival), ("xy", 0.1)):
            rows += [
                Score(
                    "land_cover",
                    "test_sites",
                    shots,
                    head,
                    name,
                    "balanced_accuracy",
                    value,
                    value - 0.02,
                    value + 0.02,
                    99,
                )
                for head in ("knn1", "best")
            ]
        reduction = 1 - (1 - own) / (1 - rival)
        rows.append(
            Score(
                "land_cover",
                "test_sites",
                shots,
                "best",
                "embedding",
                "kappa_error_reduction",
                reduction,
                None,
                None,
                99,
            )
        )
    return rows


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 30, 64)).astype(np.float32)
    vectors[:3] = np.nan
    truth = rng.integers(0, 4, (20, 30))
    return ReportData(
        title="A run <of> tests & more",
        lead="What was done.",
        facts={"area": "two zones"},
        stages=[StageRow("ingest", 61.5, 2_400_000_000, {"written": 1200, "failed": 2})],
        mosaics=[Panel("true colour", figures.composite_rgb(rng.normal(size=(20, 30, 3))))],
        embeddings=[EmbeddingMap("2021", vectors), EmbeddingMap("2022", vectors)],
        truths=[
            TruthMap(
                "Land cover", truth, truth, {1: ("wheat", "#aa0000"), 2: ("<maize>", None)}, "ten labels", truth > 1
            )
        ],
        changes=[ChangeMap("2021 to 2022", rng.random((20, 30)), rng.random((20, 30)) < 0.1)],
        losses={"total": (list(range(50)), list(np.exp(-np.arange(50) / 9)))},
        scores=scores(),
        checks=[Check("effective rank", 21.5, "above 4", True), Check("seam ratio", 9.0, "near 1", False)],
        notes=["One point a parcel."],
    )


def parse(path):
    page = Page()
    page.feed(path.read_text())
    assert not page.open
    return page


def test_the_page_is_complete_and_needs_nothing_from_outside(tmp_path, data):
    write_report(Storage(tmp_path), "reports/report.html", data)
    page = parse(tmp_path / "reports" / "report.html")
    assert {"summary", "input", "embeddings", "maps", "change", "scores", "quality", "training"} <= page.ids
    for link in page.links:
        assert link.startswith(("data:image/png;base64,", "#")), link[:80]
        if link.startswith("#"):
            assert link[1:] in page.ids
    raw = (tmp_path / "reports" / "report.html").read_text()
    assert not {"script", "link", "iframe", "object"} & page.tags and "url(" not in raw and "@import" not in raw
    assert len(page.images) == 1 + 2 + 3 + 2 + 1 + 1
    plain = 0
    for source in page.images:
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        pixels = np.asarray(picture.convert("RGB"))
        assert max(pixels.shape[:2]) >= 400
        plain += pixels.std() < 10
    assert plain == 1  # the disagreement of a map that is right everywhere
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["report.html"]


def test_the_page_says_what_the_numbers_are(tmp_path, data):
    write_report(Storage(tmp_path), "report.html", data)
    page = parse(tmp_path / "report.html")
    assert "A run <of> tests & more" in page.text and "<maize>" in page.text  # escaped, not markup
    for text in (
        "61.5",
        "2.40 GB",
        "1,200",
        "+0.100",
        "20% less error",
        "-0.050",
        "20% more error",
        "0.600 against 0.500",
        "On held-out ground alone: overall accuracy 100.0%, balanced 100.0%. On all ground, training ground included: ",
        "look at this",
        "One point a parcel.",
        "Balanced accuracy: the share of points found right",
        "true change: dark where the class of the ground changed",
    ):
        assert text in page.text, text
    assert page.marked["best"] == ["0.600", "0.750"]  # the best of each number of shots, whoever it is
    assert page.text.count("No colour: the intervals overlap") == 2  # under either table of scores


@pytest.mark.parametrize(
    ("width", "mark"), [(0.04, ["good", "bad"]), (0.08, []), (None, [])], ids=["apart", "overlapping", "unknown"]
)
def test_a_score_is_coloured_only_where_the_intervals_are_apart(tmp_path, width, mark):
    rows = [
        replace(row, low=row.mean - width, high=row.mean + width) if width else replace(row, low=None, high=None)
        for row in scores()
        if row.metric == "balanced_accuracy"
    ]
    rows = [
        replace(row, mean=0.6, low=0.6 - width, high=0.6 + width) if width and row.mean == 0.7 else row for row in rows
    ]
    write_report(Storage(tmp_path), "report.html", ReportData("x", scores=rows))
    page = parse(tmp_path / "report.html")
    told = {"good": ["+0.100", "0.600"], "bad": ["-0.150", "0.600"]}
    assert {name: page.marked[name] for name in told} == {name: told[name] if name in mark else [] for name in told}


def test_a_maps_accuracy_leads_with_the_ground_that_was_held_out(tmp_path):
    truth = np.array([[1, 1, 2, 2]] * 20)
    predicted = np.array([[1, 1, 2, 1]] * 20)
    page = []
    for held_out in (np.arange(4) > 1) & np.ones((20, 1), bool), np.zeros((20, 4), bool), None:
        maps = [TruthMap("Land cover", truth, predicted, {1: ("a", None), 2: ("b", None)}, "labels", held_out)]
        page.append(render(ReportData("x", truths=maps)))
    assert "On held-out ground alone: overall accuracy 50.0%" in page[0]
    assert "On all ground, training ground included: overall accuracy 75.0%" in page[0]
    for text in page[1:]:
        assert "On ground open to training, none of it held out: overall accuracy 75.0%" in text
        assert "held-out" not in text


def test_page_and_scores_are_written_to_any_root(data):
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    write_report(storage, "reports/report.html", data)
    write_scores(storage, "reports/scores.json", scores())
    assert storage.read_bytes("reports/report.html").decode() == render(data)
    assert read_scores(storage, "reports/scores.json") == scores()
    assert storage.list() == ["reports/report.html", "reports/scores.json"]


def test_sections_without_content_are_left_out(tmp_path):
    write_report(Storage(tmp_path), "report.html", ReportData("Empty", facts={"seed": "0"}))
    page = parse(tmp_path / "report.html")
    assert "summary" in page.ids and not {"input", "embeddings", "scores", "training"} & page.ids


def test_equal_vectors_have_equal_colours_in_every_map():
    rng = np.random.default_rng(0)
    palette = rng.normal(size=(5, 16))
    codes = rng.integers(0, 5, (2, 40, 40))
    first, second = figures.pca_rgb([palette[codes[0]].astype(np.float32), palette[codes[1]].astype(np.float32)])
    for code in range(5):
        colours = np.unique(np.concatenate([first[codes[0] == code], second[codes[1] == code]]), axis=0)
        assert len(colours) == 1
    assert len(np.unique(first.reshape(-1, 3), axis=0)) == 5


def test_the_first_component_is_red_and_holes_are_empty():
    ramp = np.zeros((1, 101, 4), np.float32)
    ramp[0, :, 2] = np.linspace(-1, 1, 101)
    ramp[0, :, 0] = 0.1 * np.sin(np.arange(101))
    ramp[0, 50] = np.nan
    image = figures.pca_rgb([ramp])[0]
    assert tuple(image[0, 50]) == figures.EMPTY
    assert image[0, 3, 0] < 15 and image[0, 97, 0] > 240 and image[0, 25, 0] == pytest.approx(64, abs=5)


def test_stretch_legend_heat_and_shrink():
    image = figures.composite_rgb(np.linspace(0, 1, 300).reshape(1, 100, 3), np.array([[0.25, 0.75]] * 3))
    assert image[0, 0].tolist() == [0, 0, 0] and image[0, -1].tolist() == [255, 255, 255]
    coded = figures.class_rgb(np.array([[1, 2, 0, 9]]), {1: "#102030", 2: "#ffffff"})
    assert coded[0].tolist() == [[16, 32, 48], [255, 255, 255], list(figures.EMPTY), list(figures.EMPTY)]
    heat = figures.heat_rgb(np.array([[0.0, 0.5, 1.0, np.nan]]), 0, 1)
    brightness = heat.sum(-1)[0].astype(int)
    assert brightness[0] > brightness[1] > brightness[2] and tuple(heat[0, 3]) == figures.EMPTY
    assert figures.shrink(np.zeros((1300, 640)), 640).shape == (434, 214)
