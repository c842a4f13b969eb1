"""The doors of files that say what persons do, and where their bodies' surface is."""

from __future__ import annotations

import contextlib
import io
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from boxwood.data.annotations import read_annotations
from boxwood.data.coco import CocoDataset
from boxwood.data.coco_file import coco_file_of
from boxwood.data.formats.convert import convert
from boxwood.data.formats.hico import read_hico
from boxwood.data.formats.selective_search import read_selective_search
from boxwood.dense_pose import encode_png, read_symmetry
from boxwood.errors import UserError
from boxwood.evaluation import make_evaluator
from boxwood.evaluation.evaluator import CollectingEvaluator
from boxwood.evaluation.interaction_files import read_vcoco_results
from boxwood.evaluation.interactions import Verbs
from boxwood.evaluation.measures import DensePoseEvaluatorConfig
from boxwood.evaluation.results import read_results
from boxwood.evaluation.surface import read_surface
from boxwood.evaluation.vcoco import vcoco_precisions
from boxwood.structures import Categories
from tests.hostile.door import Door, text

__all__ = ["PERSON_DOORS"]

KICK = Verbs((1,), ("kick",), (("obj",),))
INTERACTIONS: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 30}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "area": 30.0, "iscrowd": 0, "verbs_known": True},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [9, 2, 5, 6], "area": 30.0, "iscrowd": 0},
    ],
    "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
    "verbs": [{"id": 1, "name": "kick", "roles": [{"name": "obj", "include": [2]}]}],
    "interactions": [{"id": 1, "image_id": 1, "human_id": 1, "verb_id": 1, "targets": {"obj": 2}}],
}
VCOCO = [
    {"action_name": "kick", "role_name": ["agent", "obj"], "include": [[], ["dog"]], "image_id": [1], "ann_id": [1], "label": [1]}
    | {"role_object_id": [1, 2]}
]
VCOCO_RESULTS = [{"image_id": 1, "person_box": [1.0, 2.0, 5.0, 7.0], "kick_agent": 0.5, "kick_obj": [9.0, 2.0, 13.0, 7.0, 0.25]}]
HICO = {
    **INTERACTIONS,
    "images": [
        {"id": 1, "file_name": "HICO_train2015_00000001.png", "height": 20, "width": 30}
        | {"hois": {"positive": [1], "negative": [], "ambiguous": [], "groups": [{"hoi_id": 1, "invisible": 0}], "depth": 3}}
    ],
    "annotations": [{**row, "group": 0} for row in INTERACTIONS["annotations"]],
    "interactions": [{**INTERACTIONS["interactions"][0], "hoi_id": 1, "group": 0}],
    "hois": [{"id": 1, "verb_id": 1, "category_id": 2, "train_pairs": 1, "rare": True}],
}
CLAIMS = [
    {"verb": "kick", "role": "agent", "score": 0.5},
    {"verb": "kick", "role": "obj", "score": 0.25, "object": {"bbox": [9, 2, 5, 6], "category_id": 2, "score": 0.5}},
    {"verb": "kick", "role": "obj", "score": 0.125, "object": None},
]
RESULTS = [
    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "score": 0.5, "interactions": CLAIMS},
    {"image_id": 1, "category_id": 2, "bbox": [9, 2, 5, 6], "score": 0.5},
]
PERSON = {
    "images": INTERACTIONS["images"],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "area": 1500.0, "iscrowd": 0}
        | {"dp_x": [10.0, 90.5], "dp_y": [20, 99], "dp_I": [1, 2], "dp_U": [0.25, 0.5], "dp_V": [0, 1]}
        | {"dp_masks": [[], {"size": [256, 256], "counts": [60, 4, 65472]}, *[[]] * 12]}
    ],
    "categories": [{"id": 1, "name": "person"}],
}
POSES = [
    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "score": 0.5, "uv_shape": [3, 6, 5]}
    | {"uv_data": encode_png(np.ones((3, 6, 5), dtype=np.uint8))}
]
CHARTS = {"Part_ID_subdiv": [[1, 1, 2]], "U_subdiv": [[0.0, 0.5, 1.0]], "V_subdiv": [[0.5, 0.5, 0.5]]}


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def _mat(content: Mapping[str, Any]) -> bytes:
    """Not compressed, so that what is damaged is not the compression."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mat")
        savemat(path, dict(content))
        return path.read_bytes()


def _npz(content: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(values) for name, values in content.items()})
    return buffer.getvalue()


def _hico() -> dict[str, bytes]:
    """The two files, one of which refers to the other."""
    actions = np.array([("dog", "kick")], dtype=[("nname", object), ("vname", object)])
    boxes = [np.array([row], dtype=[(key, object) for key in ("x1", "x2", "y1", "y2")]) for row in ((2, 6, 3, 8), (10, 14, 3, 8))]
    hoi = np.empty((1, 1), dtype=[(key, object) for key in ("id", "bboxhuman", "bboxobject", "connection", "invis")])
    hoi[0, 0] = (1, *boxes, np.array([[1, 1]]), 0)
    size = np.array([(30, 20, 3)], dtype=[(key, object) for key in ("width", "height", "depth")])
    image = np.empty((1, 1), dtype=[("filename", object), ("size", object), ("hoi", object)])
    name = "HICO_train2015_00000001.png"
    image[0, 0] = (name, size, hoi)
    names = np.array([[name]], dtype=object)
    labels = {"list_action": actions, "list_train": names, "list_test": np.zeros((0, 1), dtype=object)}
    labels |= {"anno_train": np.array([[1.0]]), "anno_test": np.zeros((1, 0))}
    return {"anno.mat": _mat(labels), "anno_bbox.mat": _mat({"bbox_train": image, "bbox_test": image[:0]})}


def _read_pair(path: Path) -> None:
    coco_file_of(read_hico(path.parent).coco, path)


def _read_vcoco(path: Path) -> None:
    read_annotations(path.parent / "vcoco_a.json")


def _use(path: Path) -> None:
    """Everything that is done with a COCO file of interactions: take a sample, measure by both rules, and convert it."""
    data = CocoDataset(path, path.parent)
    _ = [data[index] for index in range(len(data))]
    for measure in ("hoi_vcoco", "hoi_hico"):
        with contextlib.suppress(UserError):  # which the file need not suit
            _measured(make_evaluator(data.to_coco(), data.categories, measure=measure), {})
    for form in ("vcoco", "hico"):
        with contextlib.suppress(UserError):
            convert(path, form, path.parent / form)


def _measured(evaluator: Any, results: Any) -> None:
    assert isinstance(evaluator, CollectingEvaluator)
    evaluator.results = results
    evaluator.compute()


def _score(path: Path) -> None:
    categories = Categories((1, 2), ("person", "dog"))
    results, _ = read_results(path, categories, {1: (20, 30)})
    for measure, truth in (("hoi_vcoco", INTERACTIONS), ("hoi_hico", HICO)):
        _measured(make_evaluator(truth, categories, measure=measure), results)


def _score_pickle(path: Path) -> None:
    vcoco_precisions(INTERACTIONS, read_vcoco_results(path, KICK))


def _use_poses(path: Path) -> None:
    data = CocoDataset(path, path.parent)
    _ = [data[index] for index in range(len(data))]
    _measured(make_evaluator(data.to_coco(), data.categories, measure=DensePoseEvaluatorConfig()), {})


def _score_poses(path: Path) -> None:
    results, _ = read_results(path, Categories((1,), ("person",)), {1: (20, 30)})
    _measured(make_evaluator(PERSON, Categories((1,), ("person",)), measure=DensePoseEvaluatorConfig()), results)


def _person_doors() -> dict[str, Door]:
    hico, instances = _hico(), ("instances_vcoco_all_2014.json", text(INTERACTIONS))
    png, hico_png = ("1.png", _png()), (HICO["images"][0]["file_name"], _png())
    charts, index = _mat(CHARTS), _mat({"index": [[1, 2, 3]]})
    distances = pickle.dumps({"Pdist_matrix": np.float32([[0.1], [0.2], [0.3]])}, 2)
    surface = (("SMPL_subdiv.mat", charts), ("SMPL_SUBDIV_TRANSFORM.mat", index), ("Pdist_matrix.pkl", distances))
    body = {"chart_part": [1, 1], "chart_u": [0.5, 1.0], "chart_v": [0.5, 1.0], "chart_vertex": [0, 1], "distances": [0.5]}
    table = np.empty((1, 2), dtype=object)
    table[:] = [[np.zeros((2, 2)), np.ones((2, 2))]]
    boxes, names = np.empty((1, 1), dtype=object), np.empty((1, 1), dtype=object)
    boxes[0, 0], names[0, 0] = np.array([[3, 2, 9, 7]]), "1"
    return {
        "interactions": Door("a.json", text(INTERACTIONS), _use, (png,)),
        "interactions of classes": Door("a.json", text(HICO), _use, (hico_png,)),
        "results of interactions": Door("a.json", text(RESULTS), _score),
        "vcoco": Door("vcoco_a.json", text(VCOCO), read_annotations, (instances,)),
        "images of vcoco": Door(*instances, _read_vcoco, (("vcoco_a.json", text(VCOCO)),)),
        "split of vcoco": Door("vcoco_a.ids", b"1\n", _read_vcoco, (("vcoco_a.json", text(VCOCO)), instances)),
        "pickle of interactions": Door("a.pkl", pickle.dumps(VCOCO_RESULTS, 2), _score_pickle),
        "labels of hico": Door("anno.mat", hico["anno.mat"], _read_pair, (("anno_bbox.mat", hico["anno_bbox.mat"]),)),
        "boxes of hico": Door("anno_bbox.mat", hico["anno_bbox.mat"], _read_pair, (("anno.mat", hico["anno.mat"]),)),
        "dense pose": Door("a.json", text(PERSON), _use_poses, (png,)),
        "results of dense pose": Door("a.json", text(POSES), _score_poses),
        "symmetry": Door("a.mat", _mat({"U_transforms": table, "V_transforms": table}), lambda path: read_symmetry(str(path))),
        "charts": Door(*surface[0], lambda path: read_surface(path.parent), surface[1:]),
        "distances": Door(*surface[2], lambda path: read_surface(path.parent), surface[:2]),
        "body": Door("body.npz", _npz(body), read_surface),
        "selective search": Door(
            "a.mat", _mat({"boxes": boxes, "images": names}), lambda path: list(read_selective_search(path, [1], ["1.png"]))
        ),
    }


PERSON_DOORS = _person_doors()
