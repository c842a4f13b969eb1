"""The zoo's table against Detectron's published tables, torchvision's metadata, and the recipes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from torchvision.models import detection

from boxwood.errors import UserError
from boxwood.recipes import names
from boxwood.zoo.table import DENSEPOSE, PREFIX, entries, find, md5_prefix
from tests.conftest import Boxwood
from tests.facts import FACTS

PUBLISHED = FACTS / "detectron" / "zoo.json"
"""Detectron's published tables of its models."""


def test_names() -> None:
    model_names = [entry.name for entry in entries()]
    assert len(model_names) == len(set(model_names)) == 85 + 7 + 7 + 22 + 7
    with pytest.raises(UserError, match="did you mean 'detectron/retinanet_R-50-FPN_1x'"):
        find("detectron/retinanet_R50_FPN_1x")


def test_every_model_has_its_recipe() -> None:
    recipes = {entry.recipe for entry in entries() if entry.recipe}
    assert recipes <= set(names()) and len(recipes) == 80 + 22


def test_every_row_is_as_published() -> None:
    published = json.loads(PUBLISHED.read_text())
    ours = [entry for entry in entries() if entry.recipe and entry.source == "detectron"]
    assert len(ours) == len(published["baselines"])
    for entry, row in zip(ours, published["baselines"], strict=True):
        assert entry.recipe == "detectron/" + row["config"].rpartition("/")[2].removesuffix(".yaml")
        numbers = (entry.box_ap, entry.mask_ap, entry.keypoint_ap, entry.ar_1000, entry.train_memory_gb, entry.train_seconds)
        keys = ("box_ap", "mask_ap", "kp_ap", "prop_ar", "train_mem_gb", "train_time_s_per_iter")
        assert numbers == tuple(row[key] for key in keys), entry.name
        assert (entry.net_seconds, entry.other_seconds) == (row["net_s_per_im"], row["misc_s_per_im"])
        urls = row["urls"]
        if "model" in urls:
            assert entry.url == urls["model"]
            assert entry.proposals == urls.get("proposals", {})
            assert list(entry.result_urls) == [urls[key] for key in ("boxes", "masks", "kps") if key in urls]
        elif entry.url:  # the same model, listed again without its links
            assert entry.url in {other["urls"].get("model") for other in published["baselines"]}
        else:
            assert "not published" in entry.remark
        assert entry.schedule == (row["schedule"] or "s1x")
    backbones = [(entry.name.removeprefix("detectron/imagenet/"), entry.url) for entry in entries() if entry.task == "imagenet"]
    assert backbones == [(backbone["name"], backbone["url"]) for backbone in published["imagenet"]]


def test_torchvisions_rows_agree_with_its_metadata() -> None:
    rows = [entry for entry in entries() if entry.source == "torchvision"]
    for entry in rows:
        enum: Any = detection.__dict__[entry.name.removeprefix("torchvision/")]
        weights = __import__("torchvision").models.get_model_weights(enum)
        member: Any = weights[entry.remark]
        assert entry.url == member.url
        metrics = next(iter(member.meta["_metrics"].values()))
        assert (entry.box_ap, entry.mask_ap, entry.keypoint_ap) == tuple(
            metrics.get(key) for key in ("box_map", "mask_map", "kp_map")
        )


def test_rows_of_dense_pose_are_as_published() -> None:
    published = {row["weights"]: row for row in json.loads((FACTS / "dense_pose" / "zoo.json").read_text())}
    rows = [entry for entry in entries() if entry.source == "densepose"]
    # The five models of chimpanzees read boxes and surfaces with two kinds of RoIAlign, and are not listed.
    assert {entry.url for entry in rows} == {url for url in published if "Atop10P" not in url}
    for entry in rows:
        assert entry.url is not None
        row = published[entry.url]
        numbers = (entry.box_ap, entry.mask_ap, entry.keypoint_ap, entry.gps_ap, entry.gpsm_ap)
        keys = ("box_ap", "segm_ap" if "segm_ap" in row else "mask_ap", "keypoint_ap", "gps_ap", "gpsm_ap")
        assert numbers == tuple(row.get(key) for key in keys)
        assert md5_prefix(entry.url) == row.get("md5_prefix", "")
        assert entry.licence.startswith("CC BY-SA 3.0") == (row["framework"] == "detectron2")
        assert ("R-101" in entry.backbone) == ("R_101" in row["config"] or "ResNet101_FPN_s1x" in row["config"])


def test_urls_are_below_the_prefix() -> None:
    assert all(
        entry.url is None or entry.url.startswith((PREFIX, DENSEPOSE, "https://download.pytorch.org/models/"))
        for entry in entries()
    )


# ------------------------------------------------------------------------------------------------------------- the command


def test_list_imports_no_large_package() -> None:
    code = (
        "import sys; sys.argv = ['boxwood', 'zoo', 'list']\n"
        "from boxwood.cli import main\n"
        "try:\n    main()\nexcept SystemExit as error:\n    assert not error.code\n"
        "assert not {'torch', 'torchvision', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 128 + 1 and max(map(len, lines)) <= 80


def test_list_is_filtered(boxwood: Boxwood) -> None:
    rows = json.loads(boxwood("zoo", "list", "--task", "mask", "--backbone", "r-50-fpn", "--schedule", "2x", "--json").out)
    assert [row["name"].removeprefix("detectron/") for row in rows] == [
        "mask_rcnn_R-50-FPN_2x",
        "e2e_mask_rcnn_R-50-FPN_2x",
        "e2e_mask_rcnn_R-50-FPN_2x+gn-readme",
        "e2e_mask_rcnn_R-50-FPN_2x_gn",
    ]
    assert rows[1]["box_ap"] == 38.6 and rows[1]["licence"] == "CC BY-SA 3.0" and rows[1]["md5_url"].endswith(".pkl.md5sum")
    assert "torchvision/" not in boxwood("zoo", "list", "--source", "detectron").out


def test_show(boxwood: Boxwood) -> None:
    shown = boxwood("zoo", "show", "detectron/e2e_mask_rcnn_R-50-FPN_2x").out
    assert "published by Detectron  box AP 38.6, mask AP 34.5" in shown and "8 P100" in shown and "CC BY-SA 3.0" in shown
    shown = " ".join(boxwood("zoo", "show", "densepose/R_50_FPN_s1x").out.split())
    assert "licence CC BY-SA 3.0, which allows commercial use under the same licence; the annotations" in shown
    assert "(DensePose-COCO) are not for commercial use" in shown
    shown = " ".join(boxwood("zoo", "show", "densepose/caffe2/ResNet50_FPN_s1x").out.split())
    assert "licence none is stated; the program that made them is CC BY-NC, not for commercial use" in shown
    wrong = boxwood("zoo", "show", "detectron/e2e_mask_rcnn_R50-FPN_2x")
    assert wrong.status == 2 and len(wrong.error_lines) == 1 and "did you mean" in wrong.err
    wrong = boxwood("zoo", "download", "detectron/e2e_mask_rcnn_R-50-FPN_2x", "--proposals")
    assert wrong.status == 2 and "no published proposals" in wrong.err
