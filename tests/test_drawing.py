"""Drawings: the positions and colours of drawn pixels, and unusual inputs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxwood.drawing import class_color, contact_sheet, draw_instances, instance_colors, side_by_side
from boxwood.errors import UserError
from boxwood.structures import Detections

HEIGHT, WIDTH = 120, 160


def blank(value: int = 128) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def draw(boxes: Any, image: Any = None, **more: Any) -> np.ndarray:
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    more = {"labels": list(range(len(boxes))), "names": [""] * len(boxes)} | more
    picture = draw_instances(blank() if image is None else image, boxes=boxes, **more)
    assert picture.size == (WIDTH, HEIGHT)
    assert picture.mode == "RGB"
    return np.array(picture)


def changed(drawn: np.ndarray) -> np.ndarray:
    return (drawn != blank()).any(axis=2)


def test_without_instances_the_picture_is_unchanged() -> None:
    assert not changed(draw([])).any()
    empty = draw([], scores=[], masks=np.zeros((0, HEIGHT, WIDTH), bool), keypoints=np.zeros((0, 17, 3)), skeleton=((0, 1),))
    assert not changed(empty).any()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_outline_has_the_color_of_its_class(value: int) -> None:
    drawn = draw([[20, 30, 100, 90]], blank(value))
    edge = [drawn[30, 20:100], drawn[89, 20:100], drawn[30:90, 20], drawn[30:90, 99]]
    assert all((line == class_color(0)).all() for line in edge)
    assert (drawn[40:80, 30:90] == value).all()
    assert (drawn[:25] == value).all()


@given(
    boxes=st.lists(
        st.tuples(st.floats(0, WIDTH - 2), st.floats(0, HEIGHT - 2), st.floats(1, WIDTH), st.floats(1, HEIGHT)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_every_box_changes_pixels_at_its_outline(boxes: list[tuple[float, float, float, float]]) -> None:
    corners = [[x, y, min(x + w, WIDTH), min(y + h, HEIGHT)] for x, y, w, h in boxes]
    seen = changed(draw(corners))
    for x1, y1, x2, y2 in corners:
        left, top = round(x1), round(y1)
        assert seen[min(top, HEIGHT - 1), min(left, WIDTH - 1)]
        assert seen[min(round(y2), HEIGHT) - 1, min(round(x2), WIDTH) - 1]


def test_small_boxes_stay_visible_on_large_ones() -> None:
    small, large = [50, 50, 53, 53], [40, 40, 110, 110]
    for boxes, labels in (([small, large], [1, 0]), ([large, small], [0, 1])):
        drawn = draw(boxes, labels=labels, masks=np.ones((2, HEIGHT, WIDTH), bool) * (np.arange(2)[:, None, None] >= 0))
        assert tuple(drawn[50, 50]) == class_color(1)


@pytest.mark.parametrize(
    "box",
    [
        [-50, -50, 20, 20],
        [-500, -500, 5000, 5000],
        [150, 110, 400, 400],
        [1000, 1000, 1100, 1100],
        [-90, -90, -50, -50],
        [1e9, 1e9, 2e9, 2e9],
        [-3e38, -3e38, 3e38, 3e38],
        [10, 10, 10, 10],
        [50, 50, 20, 20],
        [0, 0, WIDTH, HEIGHT],
        [np.nan, 0, 10, 10],
        [0, 0, np.inf, 10],
    ],
)
def test_unusual_boxes(box: list[float]) -> None:
    masks = np.zeros((1, HEIGHT, WIDTH), bool)
    draw([box], names=["somewhere"], scores=[0.5], masks=masks, keypoints=np.array([[[box[0], box[1], 1.0]]]))
    draw([box, [20, 20, 60, 60]], names=["somewhere", "here"])


def test_one_pixel_boxes() -> None:
    for x, y in ((0, 0), (WIDTH - 1, HEIGHT - 1), (80, 60)):
        seen = changed(draw([[x, y, x + 1, y + 1]]))
        assert seen[y, x]
        assert seen.sum() <= 9


def test_pictures_of_one_pixel_and_of_unusual_shapes() -> None:
    for height, width in ((1, 1), (1, 300), (300, 1), (7, 9)):
        picture = draw_instances(
            np.zeros((height, width, 3), np.uint8),
            boxes=np.array([[0, 0, width, height]]),
            labels=[3],
            names=["a name that is too long"],
            scores=[1.0],
            masks=np.ones((1, height, width), bool),
            keypoints=np.array([[[0.0, 0.0, 2.0], [width, height, 2.0]]]),
            skeleton=((0, 1),),
        )
        assert picture.size == (width, height)


def test_masks_have_a_tint_and_an_outline() -> None:
    mask = np.zeros((1, HEIGHT, WIDTH), bool)
    mask[0, :60, :80] = True
    drawn = draw([[200, 200, 210, 210]], masks=mask)
    color = np.array(class_color(0))
    assert (drawn[0, :80] == color).all()
    assert (drawn[:60, 0] == color).all()
    assert (drawn[59, :80] == color).all()
    inside = drawn[30, 40].astype(int)
    assert (np.sign(inside - 128) == np.sign(color - 128)).all()
    assert (np.abs(inside - 128) < np.abs(color - 128)).all()
    assert (drawn[60, 5:75] < 128).all()  # the dark edge
    assert (drawn[70:, :] == 128).all()
    assert (drawn[:, 90:] == 128).all()


def test_keypoints_and_links() -> None:
    points = np.array([[[20.0, 20, 2], [100, 20, 1], [60, 100, 0]]])
    seen = changed(draw([[400, 400, 410, 410]], keypoints=points, skeleton=((0, 1), (1, 2), (0, 2))))
    assert seen[20, 20]
    assert seen[20, 60]
    assert seen[20, 99]
    assert not seen[40:].any()


@pytest.mark.parametrize("name", ["hazelnut", "胡桃", "Haselnuß é", "مكسرات", "🌰", "two\nlines", "", "a" * 500])
def test_names_in_any_script_are_drawn(name: str) -> None:
    for box in ([0, 0, 20, 20], [140, 100, 160, 120], [60, 0, 90, 120]):
        without = changed(draw([box])).sum()
        drawn = changed(draw([box], names=[name])).sum()
        assert drawn >= without
        assert (drawn > without) == bool(name)


def test_names_do_not_cover_each_other() -> None:
    """Names of three equal boxes are drawn in different places."""
    one = changed(draw([[40, 40, 120, 90]], names=["nut"])) & ~changed(draw([[40, 40, 120, 90]]))
    three = changed(draw([[40, 40, 120, 90]] * 3, names=["nut"] * 3)) & ~changed(draw([[40, 40, 120, 90]]))
    assert three.sum() > 2 * one.sum()


def test_thousands_of_boxes() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 100, (3000, 2))
    draw(np.concatenate([low, low + rng.uniform(1, 30, (3000, 2))], axis=1), names=["nut"] * 3000, scores=[0.5] * 3000)


def test_all_kinds_of_images_give_the_same_drawing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    box = [[10, 20, 60, 70]]
    expected = draw(box, array)
    untouched = Image.fromarray(array)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), untouched, torch.from_numpy(array).permute(2, 0, 1)):
        assert (draw(box, image) == expected).all()
    assert (np.array(untouched) == array).all()
    draw(box, Image.new("L", (WIDTH, HEIGHT)))
    draw(box, Image.new("RGBA", (WIDTH, HEIGHT)))
    draw(box, Image.new("P", (WIDTH, HEIGHT)))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    turned = Image.new("RGB", (HEIGHT, WIDTH))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    draw([[1, 1, 9, 9]], tmp_path / "turned.jpg")
    with Image.open(tmp_path / "turned.jpg") as opened:
        draw([[1, 1, 9, 9]], opened)


def test_invalid_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("not a picture")
    for image, message in (
        (tmp_path / "none.jpg", "none.jpg: the image cannot be read .no such file"),
        (tmp_path / "a.jpg", "a.jpg: is not an image"),
        (blank().astype(complex), r"\(120, 160, 3\) complex128"),
        (blank()[:, :, :2], r"\(120, 160, 2\) uint8"),
        (torch.zeros(5, 5, 5, dtype=torch.uint8), r"\(5, 5, 5\) uint8"),
        (7, "int"),
    ):
        with pytest.raises(UserError, match=message):
            draw_instances(image, boxes=np.zeros((0, 4)), labels=[], names=[])


def test_one_class_that_fills_the_picture() -> None:
    """Each instance has its colour, none that of a class beside it; few instances or mixed classes keep the classes' colours."""
    colors = instance_colors([1] * 12 + [0, 4])
    assert len(set(colors[:12])) == 12 and colors[12:] == [class_color(0), class_color(4)]
    assert not {class_color(0), class_color(4)} & set(colors[:12])
    for labels in ([1] * 5, [0, 1, 2] * 4, []):
        assert instance_colors(labels) == [class_color(label) for label in labels]
    boxes = [[10 * n + 1, 20, 10 * n + 8, 60] for n in range(8)]
    drawn = [draw(boxes, labels=[3] * 8, colors=colors) for colors in (None, [class_color(3)] * 8)]
    outlines = [{tuple(picture[40, 10 * n + 1]) for n in range(8)} for picture in drawn]
    assert len(outlines[0]) == 8 and outlines[1] == {class_color(3)}


def test_names_are_left_out_where_they_would_cover_others_or_hide_objects() -> None:
    """Of 40 names at one place those remain that have room around it; a field of small boxes without gaps keeps one name."""
    names = [[40, 30, 70, 50]] * 40
    with_names, without = changed(draw(names, labels=[0] * 40, names=["nut"] * 40)), changed(draw(names, labels=[0] * 40))
    plate = (changed(draw(names[:1], names=["nut"])) & ~changed(draw(names[:1]))).sum()
    assert plate < (with_names & ~without).sum() < 8 * plate
    grid = [[x, y, x + 9, y + 9] for x in range(0, WIDTH, 9) for y in range(0, HEIGHT, 9)]
    several = draw(grid, names=["nut"] * len(grid), labels=[0] * len(grid)) != draw(grid, labels=[0] * len(grid))
    assert 0 < several.any(axis=2).sum() < 2.5 * plate


def test_colors_differ() -> None:
    colors = [class_color(label) for label in range(21)]
    assert len(set(colors)) == 21
    for first, second in itertools.pairwise(colors):
        assert np.abs(np.subtract(first, second)).sum() > 100


def test_detections_draw() -> None:
    detections = Detections(
        torch.tensor([[10.0, 10, 60, 60], [70, 70, 90, 90]]),
        torch.tensor([0.9, 0.2]),
        torch.tensor([0, 1]),
        (HEIGHT, WIDTH),
        ("fig", "date"),
        mask_probabilities=torch.ones(2, 28, 28),
    )
    seen = changed(np.array(detections.draw(blank(), score=0.5)))
    assert seen[30, 30]
    assert not seen[80, 80]
    assert changed(np.array(detections.draw(blank(), score=0.1)))[80, 80]


def test_contact_sheet_and_side_by_side() -> None:
    pictures = [Image.new("RGB", size, (200, 0, 0)) for size in ((80, 60), (40, 90), (80, 60))]
    sheet = contact_sheet(pictures, 2)
    assert sheet.size == (2 * 80 + 3 * 4, 2 * 90 + 3 * 4)
    assert (np.array(sheet) == (200, 0, 0)).all(axis=2).sum() == 2 * 80 * 60 + 40 * 90
    assert contact_sheet(pictures[:1], 5).size == (88, 68)
    row = side_by_side(pictures, ["truth", "prediction with a caption that is much too long", ""])
    assert (np.array(row) == (200, 0, 0)).all(axis=2).sum() == 2 * 80 * 60 + 40 * 90


def test_importing_drawing_does_not_import_torch() -> None:
    code = "import sys, boxwood.drawing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_of_more_than_8_bits_are_drawn_on_as_they_are_read(tmp_path: Path) -> None:
    """They were black or white by Pillow's conversion."""
    grey = (np.linspace(0, 4000, 60 * 80).reshape(60, 80)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    expected = np.repeat(np.floor(grey / 4095 * 255 + 0.5).astype(np.uint8)[:, :, None], 3, axis=2)
    for image in (
        tmp_path / "a.png",
        Image.fromarray(grey),
        grey,
        grey.astype(np.float32),
        torch.from_numpy(grey.astype(np.int32))[None],
    ):
        drawn = draw_instances(image, boxes=np.zeros((0, 4)), labels=[], names=[])
        np.testing.assert_array_equal(np.asarray(drawn), expected)
