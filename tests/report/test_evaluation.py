"""The report of `boxwood eval` in a browser: its numbers, controls and legibility; and a hostile name in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as coco_mask
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from boxwood.cli import main
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.drawing import class_color
from boxwood.report.evaluation import OUTCOMES
from tests.conftest import tiny
from tests.report.conftest import Open

HOSTILE = "</script><script>document.title = 'taken'</script>&\"'"
HOSTILE_FILE = '"><img src=x onerror="document.title = 1">.jpg'
SIZE = (120, 160)


def run_lengths(row: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The mask of an annotation as JSON has it."""
    code = row["segmentation"]
    code = coco_mask.merge(coco_mask.frPyObjects(code, *size)) if isinstance(code, list) else code
    counts = code["counts"]
    return {"size": list(size), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def random_detections(coco: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """COCO records with correct and false detections."""
    categories = [row["id"] for row in coco["categories"]]
    records = []
    for row in coco["annotations"]:
        code = run_lengths(row, SIZE)
        for _ in range(rng.integers(0, 3)):
            x, y, width, height = (np.array(row["bbox"]) + rng.normal(0, rng.choice([1.0, 6.0]), 4)).tolist()
            other = rng.random() < 0.25
            records.append(
                {
                    "image_id": row["image_id"],
                    "category_id": int(rng.choice(categories)) if other else row["category_id"],
                    "bbox": [x, y, max(width, 1.0), max(height, 1.0)],
                    "score": round(float(rng.uniform(0.05, 0.7 if other else 1)), 4),
                    "segmentation": code,
                }
            )
    return records


@pytest.fixture(scope="module")
def case(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of `boxwood eval` on eight pictures, one of them damaged."""
    folder = tmp_path_factory.mktemp("report")
    write_shapes(folder, train=1, val=8, size=SIZE)
    coco = json.loads((folder / "val.json").read_text())
    coco["categories"][0]["name"] = HOSTILE
    (folder / "val" / coco["images"][0]["file_name"]).rename(folder / "val" / HOSTILE_FILE)
    coco["images"][0]["file_name"] = HOSTILE_FILE
    damaged = folder / "val" / coco["images"][1]["file_name"]
    damaged.write_bytes(damaged.read_bytes()[:500])
    (folder / "val.json").write_text(json.dumps(coco))
    (folder / "detections.json").write_text(json.dumps(random_detections(coco, np.random.default_rng(0))))
    data = (f"data.val.annotations={folder / 'val.json'}", f"data.val.images={folder / 'val'}")
    with pytest.raises(SystemExit) as exited:
        main(["eval", str(trained), *data, "--detections", str(folder / "detections.json"), "--out", str(folder / "out")])
    assert exited.value.code == 0
    return folder


@pytest.fixture(scope="module")
def metrics(case: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((case / "out" / "metrics.json").read_text())
    return metrics


@pytest.fixture
def page(case: Path, opened: Open) -> Chrome:
    return opened(case / "out" / "report.html")


def texts(page: Chrome, selector: str) -> list[str]:
    return [element.text for element in page.find_elements(By.CSS_SELECTOR, selector)]


def cells(page: Chrome, table: str) -> list[list[str]]:
    """The rows of a table's body."""
    script = (
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(r => [...r.cells].map(c => c.textContent.trim()))"
    )
    rows: list[list[str]] = page.execute_script(script, table)
    return rows


def shown(number: float | None) -> str:
    return "-" if number is None or number < 0 else f"{number:.3f}"


def tallies(page: Chrome) -> list[tuple[int, int, int]]:
    """The numbers of right, wrong and missed instances of every picture, from its caption."""
    words = [text.split() for text in texts(page, ".tally")]
    return [(int(line[0]), int(line[2]), int(line[4])) for line in words]


def drawn(page: Chrome, side: int) -> int:
    """Shapes over all pictures of the truth (0) or of the detections (1)."""
    number: int = page.execute_script(
        "return [...document.querySelectorAll('.panes')].map(p => p.children[arguments[0]].querySelectorAll('svg > g').length)"
        ".reduce((a, b) => a + b, 0)",
        side,
    )
    return number


def slide(page: Chrome, score: float) -> None:
    script = "const s = document.getElementById('score'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    page.execute_script(script, score)


def test_tables_are_metrics_json(page: Chrome, metrics: dict[str, Any]) -> None:
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    assert cells(page, "#ap") == [
        [head, *(shown(metrics[task][column]) for column in columns)] for task, head in (("bbox", "box AP"), ("segm", "mask AP"))
    ]
    points = metrics["working_point"]["per_class"]
    expected = []
    for name, row in metrics["per_class"].items():
        point = [shown(points.get(name, {}).get(key)) for key in ("f1", "score", "precision", "recall")]
        expected.append([name, str(row["count"]), shown(row["bbox"]), shown(row["segm"]), *point])
    assert cells(page, "#classes") == expected
    assert cells(page, ".matrix") == [
        [name, *map(str, row)]
        for name, row in zip([*metrics["confusion"]["classes"], "nothing"], metrics["confusion"]["matrix"], strict=True)
    ]
    bars = {text.split("\n")[0]: text.split("\n") for text in texts(page, ".bar")}
    assert {name: lines[1] for name, lines in bars.items()} == {
        sort: f"{cost:.3f}" for sort, cost in metrics["errors"]["cost"].items()
    }
    assert all(lines[2].startswith(f"{metrics['errors']['count'][name]} ") for name, lines in bars.items())
    everything = page.find_element(By.TAG_NAME, "body").text
    assert f"AP50 is {shown(metrics['errors']['AP50'])}" in everything
    assert metrics["errors"]["AP50"] == pytest.approx(metrics["bbox"]["AP50"], abs=1e-12)
    assert f"(ECE): {shown(metrics['calibration']['ECE'])}" in everything
    assert all(note in everything for note in metrics["notes"])


def test_pictures_add_up_to_the_metrics(page: Chrome, metrics: dict[str, Any]) -> None:
    """All eight pictures are shown, so their captions add up to precision and recall at the best F1, and the confusion matrix."""
    right, wrong, missed = np.array(tallies(page)).sum(axis=0)
    point = metrics["working_point"]
    assert float(page.find_element(By.ID, "score").get_attribute("value") or -1) == point["score"]
    assert right / (right + wrong) == pytest.approx(point["precision"]) and right / (right + missed) == pytest.approx(
        point["recall"]
    )
    assert right + missed == sum(row["count"] for row in metrics["per_class"].values())


def test_the_slider_filters_the_detections(page: Chrome, case: Path) -> None:
    scores = np.array([record["score"] for record in json.loads((case / "detections.json").read_text())])
    for score in (0.0, 0.3, 0.55, 1.0):
        slide(page, score)
        assert drawn(page, 1) == (scores >= score).sum() == sum(right + wrong for right, wrong, _ in tallies(page))
        assert page.find_element(By.ID, "score-shown").text == f"{score:.2f}"
    assert drawn(page, 0) > 0


def strokes(page: Chrome, side: int) -> Counter[str]:
    """How often each colour outlines a box, over all pictures of the truth (0) or of the detections (1)."""
    script = (
        "return [...document.querySelectorAll('.panes')].map(p => p.children[arguments[0]])"
        ".flatMap(pane => [...pane.querySelectorAll('svg > g > rect')]).map(r => r.getAttribute('stroke'))"
    )
    return Counter(page.execute_script(script, side))


def test_outcomes_have_their_colors(page: Chrome, case: Path) -> None:
    """Right, false positive, missed: as many boxes of each colour as the captions count; or the colours of the classes."""
    slide(page, 0.3)
    right, wrong, missed = np.array(tallies(page)).sum(axis=0)
    colors = {outcome: color for outcome, (color, _) in OUTCOMES.items()}
    truth, found = strokes(page, 0), strokes(page, 1)
    assert (truth[colors["right"]], truth[colors["missed"]]) == (right, missed) and min(right, wrong, missed) > 0
    assert (found[colors["right"]], found[colors["wrong"]]) == (right, wrong) and set(found) <= set(colors.values())
    Select(page.find_element(By.ID, "hue")).select_by_value("class")
    classes = json.loads((case / "val.json").read_text())["categories"]
    of_classes = {"#" + "".join(f"{part:02x}" for part in class_color(label)) for label in range(len(classes))}
    assert set(strokes(page, 1)) <= of_classes and sum(strokes(page, 1).values()) == right + wrong


def test_names_do_not_cover_each_other(page: Chrome) -> None:
    slide(page, 0)
    script = (
        "return [...document.querySelectorAll('.panes svg')].map(s => [...s.querySelectorAll('text')]"
        ".map(t => (({x, y, width, height}) => [x, y, x + width, y + height])(t.getBBox())))"
    )
    for boxes in page.execute_script(script):
        for place, (x1, y1, x2, y2) in enumerate(boxes):
            for a1, b1, a2, b2 in boxes[:place]:
                across, down = min(x2, a2) - max(x1, a1), min(y2, b2) - max(y1, b1)
                assert across * down < 0.35 * min(x2 - x1, a2 - a1) * (y2 - y1) or min(across, down) <= 0


def test_classes_are_hidden(page: Chrome, case: Path) -> None:
    slide(page, 0)
    records = json.loads((case / "detections.json").read_text())
    truth = json.loads((case / "val.json").read_text())
    first = truth["categories"][0]["id"]
    count = sum(record["category_id"] == first for record in records)
    boxes = page.find_elements(By.CSS_SELECTOR, "#chips input")
    assert len(boxes) == len(truth["categories"]) and 0 < count < len(records)
    boxes[0].click()
    assert drawn(page, 1) == len(records) - count
    assert drawn(page, 0) == sum(row["category_id"] != first for row in truth["annotations"])
    everything, nothing = page.find_elements(By.CSS_SELECTOR, "#chips button")
    nothing.click()
    assert drawn(page, 0) == drawn(page, 1) == 0
    everything.click()
    assert (drawn(page, 0), drawn(page, 1)) == (len(truth["annotations"]), len(records))


def test_curves_of_classes(page: Chrome, metrics: dict[str, Any]) -> None:
    select = Select(page.find_element(By.ID, "curve"))
    names = [name for name, row in metrics["per_class"].items() if row["count"]]
    assert [option.text for option in select.options] == ["the mean of all classes", *(" ".join(name.split()) for name in names)]
    line = page.find_element(By.CSS_SELECTOR, ".line-0")
    seen = {line.get_attribute("d")}
    for place in range(1, len(select.options)):
        select.select_by_index(place)
        seen.add(line.get_attribute("d"))
    assert len(seen) == len(select.options)


def test_the_table_is_sorted(page: Chrome, metrics: dict[str, Any]) -> None:
    name, count, ap = page.find_elements(By.CSS_SELECTOR, "#classes .sort")[:3]
    count.click()
    counts = [int(row[1]) for row in cells(page, "#classes")]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) > 1
    count.click()
    assert [int(row[1]) for row in cells(page, "#classes")] == sorted(counts)
    ap.click()
    aps = [-1.0 if row[2] == "-" else float(row[2]) for row in cells(page, "#classes")]
    assert aps == sorted(aps, reverse=True)
    name.click()
    assert sorted(row[0] for row in cells(page, "#classes")) == sorted(metrics["per_class"])


def test_hostile_names_are_escaped(page: Chrome) -> None:
    """A class and a file with tags in their names."""
    assert page.title not in ("taken", "1")
    assert HOSTILE in {row[0] for row in cells(page, "#classes")}
    assert HOSTILE_FILE in page.execute_script("return [...document.querySelectorAll('figcaption b')].map(b => b.textContent)")
    assert page.execute_script("return document.querySelectorAll('img[onerror]').length") == 0


def test_a_damaged_picture_is_reported(page: Chrome) -> None:
    captions = texts(page, "figcaption")
    assert len(captions) == 8 and sum("cannot be read" in text for text in captions) == 1


def test_the_page_loads_no_other_file(page: Chrome, case: Path) -> None:
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []
    assert "default-src 'none'" in (case / "out" / "report.html").read_text()


def luminance(color: str) -> float:
    """WCAG's relative luminance of ``rgb(r, g, b)``."""
    parts = np.array([float(word) for word in color[color.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_legible(case: Path, opened: Open, width: int) -> None:
    """On a phone and a screen nothing is wider than the window; text and ground differ as WCAG asks, in both schemes."""
    grounds = set()
    for scheme in ("light", "dark"):
        page = opened(case / "out" / "report.html", width=width, scheme=scheme)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        style = "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.color, s.fontSize]"
        ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        for selector in ("body", ".soft", "h1", "td", "figcaption", ".tile"):
            color, size = page.execute_script(style, selector)
            dark, bright = sorted((luminance(color), luminance(ground)))
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (scheme, selector, color, ground)
            assert float(size.removesuffix("px")) >= 12, selector
        grounds.add(ground)
    assert len(grounds) == 2


@pytest.mark.parametrize("measure", ["voc2007", "lvis", "cityscapes"])
def test_reports_of_other_measures(measure: str, trained: Path, shapes: Path, tmp_path: Path, opened: Open) -> None:
    coco = json.loads((shapes / "val.json").read_text())
    for number, row in enumerate(coco["categories"]):
        row["frequency"] = "rcf"[number % 3]
    for image in coco["images"]:
        image |= {"neg_category_ids": [1, 2], "not_exhaustive_category_ids": []}
    (tmp_path / "val.json").write_text(json.dumps(coco))
    rng = np.random.default_rng(1)
    keys = ("image_id", "category_id", "bbox")
    records = [
        {**{key: row[key] for key in keys}, "score": float(rng.uniform(0.1, 1)), "segmentation": run_lengths(row, (96, 128))}
        for row in coco["annotations"]
    ]
    (tmp_path / "detections.json").write_text(json.dumps(records))
    arguments = ["eval", str(trained), f"data.val.annotations={tmp_path / 'val.json'}", "--measure", measure]
    with pytest.raises(SystemExit) as exited:
        main([*arguments, "--detections", str(tmp_path / "detections.json"), "--out", str(tmp_path / "out")])
    assert exited.value.code == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    tasks = {"voc2007": ["voc"], "lvis": ["lvis_bbox", "lvis_segm"], "cityscapes": ["cityscapes"]}[measure]
    page = opened(tmp_path / "out" / "report.html")
    assert [row[1] for row in cells(page, "#ap")] == [shown(metrics[task]["AP"]) for task in tasks] == ["1.000"] * len(tasks)
    assert len(page.find_elements(By.ID, "gallery")) == (measure != "lvis")


def test_reports_of_proposals_and_of_no_detections(trained: Path, shapes: Path, tmp_path: Path, opened: Open) -> None:
    data = [override for override in tiny(shapes) if override.startswith(("data.", "train."))]
    small = ("model.backbone.weights=null", "model.fpn.channels=16", "model.rpn.test_proposals=30")
    (tmp_path / "none.json").write_text("[]")
    for arguments, status in (
        (["train", "rpn_mobilenetv2_fpn", *data, *small, "--out", str(tmp_path / "rpn")], 0),
        (["eval", str(tmp_path / "rpn"), "--out", str(tmp_path / "proposals")], 0),
        (["eval", str(trained), "--detections", str(tmp_path / "none.json"), "--out", str(tmp_path / "nothing")], 0),
    ):
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        assert exited.value.code == status
    page = opened(tmp_path / "proposals" / "report.html")
    metrics = json.loads((tmp_path / "proposals" / "metrics.json").read_text())["proposals"]
    assert cells(page, "#ap") == [["proposals", *map(shown, metrics.values())]]
    page = opened(tmp_path / "nothing" / "report.html")
    assert cells(page, "#ap")[0][1] == "0.000"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_statistics(case: Path, tmp_path: Path, opened: Open, scheme: str) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["data", "stats", str(case / "val.json"), "--out", str(tmp_path / "stats.html")])
    assert exited.value.code == 0
    page = opened(tmp_path / "stats.html", width=390, scheme=scheme)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    coco = json.loads((case / "val.json").read_text())
    counted = {row.split("\n")[0]: int(row.split("\n")[1]) for row in texts(page, ".bar")}
    names = {row["id"]: " ".join(row["name"].split()) for row in coco["categories"]}
    shown = {name: sum(names[row["category_id"]] == name and not row["iscrowd"] for row in coco["annotations"]) for name in counted}
    assert counted == shown and len(counted) == len(names) and page.title == "Data statistics"
    assert len(page.find_elements(By.CSS_SELECTOR, "svg.plot")) == 3


def test_templates_are_installed() -> None:
    """The wheel has the templates, since every file of the package's folder goes into it."""
    from importlib.resources import files

    names = {path.name for path in files("boxwood.report").joinpath("templates").iterdir()}
    assert {"page.html", "style.css", "evaluation.html", "evaluation.js", "statistics.html"} <= names
