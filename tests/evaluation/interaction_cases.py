"""The golden data of V-COCO and HICO-DET in ``tests/facts/interactions``, as files and as dictionaries."""

import gzip
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from boxwood.data.formats.hico import read_hico
from boxwood.data.formats.vcoco import read_vcoco
from boxwood.evaluation.interactions import PredictedInteractions, Verbs

FACTS = Path(__file__).parents[1] / "facts" / "interactions"


@cache
def facts(name: str) -> Any:
    return json.loads(gzip.decompress((FACTS / f"{name}.json.gz").read_bytes()))


def write_vcoco_case(folder: Path, case: str) -> Path:
    """V-COCO's files of a case as its repository has them; returns that of the verbs."""
    data = facts("vcoco")[case]
    for part in ("vcoco", "splits"):
        (folder / part).mkdir(parents=True)
    (folder / "instances_vcoco_all_2014.json").write_text(json.dumps(data["instances"]))
    (folder / "splits" / "vcoco_test.ids").write_text("".join(f"{number}\n" for number in data["ids"]))
    source = folder / "vcoco" / "vcoco_test.json"
    source.write_text(json.dumps(data["verbs"]))
    return source


def vcoco_truth(folder: Path, case: str) -> dict[str, Any]:
    return read_vcoco(write_vcoco_case(folder / case, case)).coco


def write_hico_case(folder: Path, case: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("anno", "anno_bbox"):
        shutil.copy(FACTS / f"hico_{case}_{name}.mat", folder / f"{name}.mat")
    return folder


def hico_truth(folder: Path, case: str) -> dict[str, Any]:
    """The test images of a case."""
    return read_hico(write_hico_case(folder / case, case), "test").coco


def hico_predictions(case: str, truth: dict[str, Any]) -> PredictedInteractions:
    columns, verbs = facts("hico")[case]["detections"], Verbs.of(truth)
    hois = {hoi["id"]: hoi for hoi in truth["hois"]}
    ids = [image["id"] for image in truth["images"]]
    last = np.array([0, 0, 1, 1])

    def box(corners: list[float]) -> list[float]:
        return (np.array(corners) + last).tolist()

    return PredictedInteractions.of_rows(
        (ids[image], box(human), verbs.ids.index(hois[hoi]["verb_id"]), 0, box(target), hois[hoi]["category_id"], score)
        for image, hoi, human, target, score in zip(
            *(columns[key] for key in ("image", "hoi_id", "human_box", "object_box", "score")), strict=True
        )
    )
