"""`boxwood distill label`: a detector labels pictures.

    pictures -> views of each -> joined detections -> a journal, picture by picture
    a labelled set -> instances an image -> thresholds -> a COCO file, and a page that shows it

The annotations have ``score`` and ``source: auto``. Letters: N detections of all pictures, K classes, J keypoints.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boxwood.config import apply_overrides, to_tree
from boxwood.data import CocoConfig
from boxwood.data.annotations import read_annotations
from boxwood.data.categories import categories_of
from boxwood.data.class_order import check_same_names
from boxwood.data.coco_file import CocoFile
from boxwood.data.quality.checks import check_boxes, check_identities, refuse
from boxwood.data.transforms import ResizeShortestEdge
from boxwood.errors import UserError
from boxwood.files import write_whole
from boxwood.inference.journal import Journal, Line
from boxwood.inference.predictor import Predictor, predictor_of
from boxwood.inference.records import records_of
from boxwood.inference.sources import is_video, source_files
from boxwood.interop.open_weights import OpenedWeights, open_weights
from boxwood.library.distillation.page import write_page_of_labels
from boxwood.library.distillation.thresholds import Threshold, cut, thresholds
from boxwood.models.inference_config import BoxViewsConfig, KeypointViewsConfig, MaskViewsConfig, TTAConfig, VoteConfig
from boxwood.ops.contours import instance_area
from boxwood.run_config import RunConfig
from boxwood.structures import Categories, Sample
from boxwood.threads import in_order, worker_threads

__all__ = ["FLOOR", "Labels", "journal_of", "label", "pictures_in", "with_views"]

logger = logging.getLogger(__name__)

FLOOR = 0.3
"""No detection with a lower score becomes a label, even if a class then has fewer than the labelled set."""
EIGHTHS = (4, 5, 6, 7, 9, 10, 11, 12)
"""The paper's other shorter sides, 400 to 1200 pixels, in eighths of the ordinary one, 800."""
LOG_EVERY = 50
"""Pictures between lines of the log."""


@dataclass(frozen=True)
class Labels:
    """The files that `label` wrote, and counts of what is in them."""

    out: Path
    page: Path
    num_pictures: int
    num_labelled: int
    """Pictures with at least one label."""
    thresholds: dict[str, Threshold]
    """By the name of a class."""
    unreadable: dict[str, str]
    """The pictures that could not be read, and why."""

    @property
    def num_instances(self) -> int:
        """Labels of all classes."""
        return sum(threshold.labels for threshold in self.thresholds.values())

    def text(self) -> str:
        """A table of the classes for a terminal."""
        width = max(len(name) for name in ("class", *self.thresholds))
        lines = [f"{'class':{width}}  labelled set, an image  wanted  labels  lowest score"]
        for name, row in self.thresholds.items():
            score = "-" if row.score is None else f"{row.score:.3f}"
            lines.append(f"{name:{width}}{row.target:>24.3f}{row.wanted:>8,}{row.labels:>8,}{score:>14}")
        return "\n".join(lines)


def label(
    model: str | Path,
    images: str | Path,
    like: str | Path | CocoConfig,
    out: str | Path,
    *,
    per_class: bool = True,
    floor: float = FLOOR,
    one_view: bool = False,
    overrides: Sequence[str] = (),
) -> Labels:
    """Label the pictures of a folder with a detector, and write them as the COCO file ``out``, with a page ``out``.html beside it.

    ``model`` is a run, a weights file or a name of the zoo. ``like`` is the labelled set, a file or folder of any format that is
    read (its train part), or a `boxwood.data.CocoConfig`: a class gets as many labels an image as it has instances an image there
    (`boxwood.library.distillation.thresholds`), with a score of at least ``floor``; without ``per_class`` all classes share one
    threshold. Each picture is seen in 18 views (`with_views`), or with ``one_view`` as `boxwood predict` sees it; ``overrides``
    (``test.KEY=VALUE``) change that.

    Results are written to a journal beside ``out``, picture by picture: a call that was interrupted resumes. Pictures that cannot
    be read are left out and named in the result. Raises `UserError` where the folder has no picture, the classes of ``like`` are
    not those of the model, or no label can be made by the rule.
    """
    images, out = Path(images), Path(out)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "boxwood distill label runs in one process; start it without torchrun, or once for each part of the pictures"
        )
    if out.suffix != ".json":
        raise UserError(f"{out}: the labels are a COCO file, which is written as .json; change the ending")
    if not 0 <= floor <= 1:
        raise UserError(f"--floor {floor:g}: must be a score, 0 to 1")
    names = pictures_in(images)
    opened = open_weights(model)
    labelled = _labelled_set(like, opened)
    config = _config(opened, floor, one_view, overrides)
    _check_limit(labelled, config)
    about = {"model": str(model), "weights": _digest(opened), "test": to_tree(config.test)}
    path = journal_of(out)
    with closing(Journal(path, about)) as journal:
        errors = _detect(journal, partial(predictor_of, opened, config, source=str(model)), images, names)
        selection = _select(journal, names, opened.saved.categories, labelled, per_class, floor)
        _check_labels(selection, floor, images)
        info = _info(about, labelled, config, selection)
        write_whole(out, partial(_write, journal, names, selection, labelled.file, info))
        page = out.with_suffix(".html")
        write_page_of_labels(page, out, images, selection.of_class, selection.scores, floor)
    path.unlink()
    return Labels(out, page, selection.num_pictures, selection.num_labelled, selection.of_class, errors)


def journal_of(out: Path) -> Path:
    """The journal of the labels ``out``, which is there until these and their page are complete."""
    return out.with_name(f"{out.name}.part.jsonl")


def with_views(config: RunConfig) -> RunConfig:
    """The configuration with the paper's 18 views: at nine shorter sides from half to one and a half times the ordinary one, plain
    and mirrored. One with views (``test.tta``) keeps them.

    Boxes of all views are suppressed together and then vote; masks are averaged probabilities. For keypoints boxes come from the
    ordinary view alone, and in them the heatmaps of all views are averaged as probabilities. Without a `ResizeShortestEdge` among
    ``data.val.transforms`` the views are the ordinary and the mirrored one.
    """
    config = config.model_copy(deep=True)
    if config.test.tta is None:
        resize = next((t for t in config.data.val.transforms if isinstance(t, ResizeShortestEdge)), None)
        scales = () if resize is None else tuple(dict.fromkeys(round(resize.short[0] * eighths / 8) for eighths in EIGHTHS))
        views: dict[str, Any] = {"flip": True, "scales": scales, "scale_flip": bool(scales)}
        has_masks, has_keypoints = (getattr(config.model, name, None) is not None for name in ("mask_head", "keypoint_head"))
        config.test.tta = TTAConfig(
            boxes=None if has_keypoints else BoxViewsConfig(**views),
            masks=MaskViewsConfig(**views) if has_masks else None,
            keypoints=KeypointViewsConfig(**views, combine="probability_avg") if has_keypoints else None,
        )
    if config.test.tta.boxes is not None and config.test.vote is None:
        config.test.vote = VoteConfig()
    return config


# ------------------------------------------------------------------------------------------------------------ the inputs


@dataclass(frozen=True)
class _LabelledSet:
    file: CocoFile
    targets: NDArray[np.float64]
    """(K,) instances an image of each class of the model."""
    keypoints: float | None
    """Labelled keypoints an instance; None for models without."""


def pictures_in(folder: Path) -> list[str]:
    """The names of the pictures in a folder and those below it, relative to it. Raises `UserError` where there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; name the folder of the pictures that are to be labelled")
    try:
        files = source_files(Path(glob.escape(str(folder))) / "**" / "*")
    except UserError:  # the pattern is ours, so the message is too
        files = []
    pictures = [file for file in files if not is_video(file)]
    if len(pictures) < len(files):
        logger.warning("%s: %d videos are left out; only pictures are labelled", folder, len(files) - len(pictures))
    if not pictures:
        raise UserError(f"{folder}: has no picture; name the folder of the pictures that are to be labelled")
    return [file.relative_to(folder).as_posix() for file in pictures]


def _labelled_set(like: str | Path | CocoConfig, opened: OpenedWeights) -> _LabelledSet:
    """How many instances the images of the labelled set have: without crowd regions, instances to ignore and boxes without area;
    for a model with keypoints those with a labelled keypoint."""
    if opened.saved.config.model.class_agnostic:
        raise UserError(f"{opened.source}: {opened.saved.config.model.title} finds boxes without classes, which are no labels")
    file = like.read() if isinstance(like, CocoConfig) else read_annotations(like)
    refuse(check_identities(file), file.path)
    model = opened.saved.categories
    check_same_names(model, categories_of(file), opened.source, file.path)
    has_keypoints = getattr(opened.saved.config.model, "keypoint_head", None) is not None
    if has_keypoints and model.keypoints != (facts := categories_of(file).keypoints):
        raise UserError(f"{file.path}: has {'other' if facts else 'no'} keypoints than {opened.source}; name its labelled set")
    counted = check_boxes(file)[0].usable & ~file.crowd & ~file.ignore
    keypoints = None
    if has_keypoints:
        visible = np.zeros(len(counted), dtype=np.int64)
        rows = file.keypoint_rows >= 0
        visible[rows] = (file.keypoints[file.keypoint_rows[rows], 2::3] > 0).sum(axis=1)
        counted &= visible > 0
        keypoints = float(visible[counted].mean()) if counted.any() else 0.0
    ids = {str(row["name"]): int(row["id"]) for row in file.categories}
    counts = np.array([(counted & (file.category_ids == ids[name])).sum() for name in model.names])
    if not counts.any():
        what = "instance with a labelled keypoint" if keypoints is not None else "instance"
        raise UserError(
            f"{file.path}: has no {what}, so by the rule of as many instances an image there is no label; name a labelled set"
        )
    return _LabelledSet(file, counts / len(file.image_ids), keypoints)


def _config(opened: OpenedWeights, floor: float, one_view: bool, overrides: Sequence[str]) -> RunConfig:
    if others := [override for override in overrides if not override.startswith("test.")]:
        raise UserError(f"{others[0]}: the model is built as it was trained; only keys of test can be changed")
    config = opened.saved.config.model_copy(deep=True) if one_view else with_views(opened.saved.config)
    if one_view:
        config.test.tta = None
    config = apply_overrides(config, overrides)
    config.test.score_threshold = min(config.test.score_threshold, max(floor - 1e-6, 0.0))
    return config


def _check_limit(labelled: _LabelledSet, config: RunConfig) -> None:
    limit = config.test.detections_per_image
    if (target := labelled.targets.sum()) > limit:
        raise UserError(
            f"{labelled.file.path}: has {target:.1f} instances an image, and the model gives at most {limit}; raise "
            "test.detections_per_image"
        )


def _digest(opened: OpenedWeights) -> str:
    """A digest of the weights, so that labels of several trainings are not mixed."""
    total = hashlib.sha256()
    for name, tensor in sorted(opened.saved.state.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


# --------------------------------------------------------------------------------------------------------- the detections


def _detect(journal: Journal, load: Any, images: Path, names: Sequence[str]) -> dict[str, str]:
    """Add the detections of the pictures that are not done yet; returns the errors of those that cannot be read."""
    todo = [name for name in names if name not in journal.done]
    errors: dict[str, str] = {}
    if not todo:
        return errors
    predictor: Predictor = load()
    with worker_threads(1) as pool:
        read = in_order(pool, partial(_read, predictor, images), todo, ahead=2)
        for number, (name, sample) in enumerate(zip(todo, read, strict=True), start=1):
            if isinstance(sample, UserError):
                logger.error("%s", sample)
                errors[name] = str(sample)
                continue
            (detections,) = predictor.detect([sample])
            journal.add({"file_name": name, "size": list(sample.original_size), "detections": records_of(detections)})
            if number % LOG_EVERY == 0 or number == len(todo):
                logger.info("%d of %d pictures", len(names) - len(todo) + number, len(names))
    return errors


def _read(predictor: Predictor, images: Path, name: str) -> Sample | UserError:
    """In a worker thread: the picture, ready for the network, or why it cannot be read."""
    try:
        return predictor.sample(images / name)
    except UserError as error:
        return error


@dataclass(frozen=True)
class _Selection:
    """Which detections become labels."""

    of_class: dict[str, Threshold]
    of_keypoints: Threshold | None
    scores: NDArray[np.float64]
    """(N,) of all detections."""
    num_pictures: int
    num_labelled: int

    def takes(self, record: Mapping[str, Any]) -> bool:
        score = self.of_class[record["category"]].score
        return score is not None and record["score"] >= score


def _select(
    journal: Journal, names: Sequence[str], categories: Categories, labelled: _LabelledSet, per_class: bool, floor: float
) -> _Selection:
    """The thresholds, from the scores of all pictures; nothing else of them is in memory."""
    place = {name: number for number, name in enumerate(categories.names)}
    scores: list[float] = []
    labels: list[int] = []
    num_pictures = 0
    for line in journal.lines(set(names)):
        num_pictures += 1
        scores += [record["score"] for record in line["detections"]]
        labels += [place[record["category"]] for record in line["detections"]]
    if not num_pictures:
        raise UserError(f"{names[0]}: none of the {len(names)} pictures can be read; name the folder of other pictures")
    columns = np.array(scores), np.array(labels, dtype=np.int64)
    rows = thresholds(*columns, labelled.targets, num_pictures, floor=floor, per_class=per_class)
    of_class = dict(zip(categories.names, rows, strict=True))
    selection = _Selection(of_class, None, columns[0], num_pictures, 0)
    num_labelled, peaks = 0, []
    for line in journal.lines(set(names)):
        records = [record for record in line["detections"] if selection.takes(record)]
        num_labelled += bool(records)
        peaks += [record["keypoints"][2::3] for record in records] if labelled.keypoints is not None else []
    of_keypoints = None
    if labelled.keypoints is not None and peaks:
        of_keypoints = cut(np.array(peaks).ravel(), labelled.keypoints, len(peaks), -np.inf)
    return _Selection(of_class, of_keypoints, columns[0], num_pictures, num_labelled)


def _check_labels(selection: _Selection, floor: float, images: Path) -> None:
    """Raise `UserError` where the rule gives no label at all; warn of classes without."""
    if not selection.num_labelled:
        wanted = sum(row.wanted for row in selection.of_class.values())
        best = f"the best has {selection.scores.max():.3f}" if len(selection.scores) else "there is none"
        raise UserError(
            f"{images}: by the rule {wanted:,} instances are wanted, and no detection has a score of {floor:g} ({best}); lower "
            "--floor, or train the model further"
        )
    for name, row in selection.of_class.items():
        if row.missing:
            logger.warning(
                "%s: %d labels instead of %d, since no other detection has a score of %g", name, row.labels, row.wanted, floor
            )


# -------------------------------------------------------------------------------------------------------------- the file


def _info(about: Mapping[str, Any], labelled: _LabelledSet, config: RunConfig, selection: _Selection) -> dict[str, Any]:
    """What the labels were made from, for the file's ``info``."""
    rows = {name: asdict(row) for name, row in selection.of_class.items()}
    return {
        "description": "labels that a detector made (Data Distillation); annotations have score and source: auto",
        "model": about["model"],
        "weights_sha256": about["weights"],
        "labelled_set": labelled.file.path,
        "views": to_tree(config.test)["tta"],
        "thresholds": rows,
        "keypoint_threshold": None if selection.of_keypoints is None else asdict(selection.of_keypoints),
        "images": selection.num_pictures,
        "images_with_labels": selection.num_labelled,
    }


def _write(
    journal: Journal, names: Sequence[str], selection: _Selection, labelled: CocoFile, info: Mapping[str, Any], path: Path
) -> None:
    """The COCO file, row by row."""
    ids = {str(row["name"]): int(row["id"]) for row in labelled.categories}
    facts = categories_of(labelled).keypoints
    # Without any keypoints the file could not be mixed with a labelled set that has some.
    unlabelled: Line = {} if facts is None else {"keypoints": [0.0] * 3 * len(facts.names), "num_keypoints": 0}
    number = 0

    def images() -> Iterator[dict[str, Any]]:
        for image_id, line in enumerate(journal.lines_in_order(names), start=1):
            height, width = line["size"]
            yield {"id": image_id, "file_name": line["file_name"], "height": height, "width": width}

    def annotations() -> Iterator[dict[str, Any]]:
        nonlocal number
        for image_id, line in enumerate(journal.lines_in_order(names), start=1):
            for record in line["detections"]:
                if selection.takes(record):
                    number += 1
                    row = _annotation(record, ids[record["category"]], selection.of_keypoints)
                    yield {"id": number, "image_id": image_id, **unlabelled, **row}

    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f'{{"info": {_json(info)},\n"categories": {_json(labelled.categories)}')
        for key, rows in (("images", images()), ("annotations", annotations())):
            file.write(f',\n"{key}": [')
            for position, row in enumerate(rows):
                file.write(("," if position else "") + "\n" + _json(row))
            file.write("\n]")
        file.write("}\n")


def _annotation(record: Line, category_id: int, of_keypoints: Threshold | None) -> Line:
    """A row of the file for a detection, without its ids."""
    area = instance_area(record.get("segmentation"), record["bbox"])
    row: Line = {"category_id": category_id, "bbox": record["bbox"], "area": area, "iscrowd": 0}
    row |= {"score": record["score"], "source": "auto"}
    if "segmentation" in record:
        row["segmentation"] = record["segmentation"]
    if "keypoints" in record:
        points = np.array(record["keypoints"], dtype=np.float64).reshape(-1, 3)
        labelled = points[:, 2] >= (np.inf if of_keypoints is None or of_keypoints.score is None else of_keypoints.score)
        points[:, 2] = 2
        row |= {"keypoints": np.where(labelled[:, None], points, 0).ravel().tolist(), "num_keypoints": int(labelled.sum())}
    return row


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
