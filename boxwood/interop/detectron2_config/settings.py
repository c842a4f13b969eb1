"""Converts detectron2's keys of data, schedule and test to Boxwood's configuration."""

from __future__ import annotations

from typing import Any, NamedTuple

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, MixtureConfig, ResizeShortestEdge
from boxwood.data.transforms import Transform
from boxwood.interop.detectron2_config.values import Values
from boxwood.models import ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig, TestConfig
from boxwood.run_config import CosineScheduleConfig, ScheduleConfig, SGDConfig, StepScheduleConfig, TrainConfig

__all__ = ["has_published_classes", "make_data", "make_optim", "make_test", "make_train"]

MAX_SIDE = 100_000


class _Set(NamedTuple):
    annotations: str
    images: str
    split: str | None = None


def _catalogue() -> dict[str, _Set]:
    """The data sets that detectron2 knows by name, in the folders of the recipes."""
    coco, sets = "data/coco", {}
    for year, parts in (("2014", ("train", "val", "minival", "valminusminival")), ("2017", ("train", "val"))):
        for part in parts:
            images = f"{coco}/{'train' if part == 'train' else 'val'}{year}"
            for name, kind in (("coco", "instances"), ("keypoints_coco", "person_keypoints")):
                sets[f"{name}_{year}_{part}"] = _Set(f"{coco}/annotations/{kind}_{part}{year}.json", images)
    for version in ("v0.5", "v1"):
        for part in ("train", "val"):
            sets[f"lvis_{version}_{part}"] = _Set(f"data/lvis/lvis_{version}_{part}.json", coco)
    for part in ("train", "val", "test"):
        annotations = f"data/cityscapes/annotations/instancesonly_gtFine_{part}.json"
        sets[f"cityscapes_fine_instance_seg_{part}"] = _Set(annotations, "data/cityscapes/images")
    for year in ("2007", "2012"):
        for part in ("trainval", "train", "val", "test"):
            sets[f"voc_{year}_{part}"] = _Set(f"data/VOC{year}", f"data/VOC{year}/JPEGImages", part)
    return sets


CATALOGUE = _catalogue()


def has_published_classes(values: Values) -> bool:
    """Whether the weights were trained on COCO, its persons or VOC, whose classes are known by their number."""
    names = values.get("DATASETS.TRAIN")
    return bool(names) and all(name in CATALOGUE and name.startswith(("coco_", "keypoints_coco_", "voc_")) for name in names)


# --------------------------------------------------------------------------------------------------------------------- data


def make_data(values: Values, model: ModelConfig) -> DataConfig:
    """Both data sets; of several test sets the first."""
    flips: tuple[Transform, ...] = (HorizontalFlip(p=0.5),)
    if values.get("INPUT.RANDOM_FLIP") != "horizontal":
        flips = ()
        if values.get("INPUT.RANDOM_FLIP") != "none":
            values.leave_out("INPUT.RANDOM_FLIP", "images are not mirrored")
    resize = ResizeShortestEdge(short=_train_sides(values), long=_side(values, "INPUT.MAX_SIZE_TRAIN"))
    test_side = values.get("INPUT.MIN_SIZE_TEST")
    view: tuple[Transform, ...] = ()
    if test_side != 0:  # detectron2 reads 0 as the image's own size
        view = (ResizeShortestEdge(short=(_side(values, "INPUT.MIN_SIZE_TEST"),), long=_side(values, "INPUT.MAX_SIZE_TEST")),)
    fast = isinstance(model, RCNNConfig) and model.rpn is None
    names = values.get("DATASETS.TRAIN")
    proposals = _proposals(values, "TRAIN", len(names)) if fast else (None,) * len(names)
    repeat = values.get("DATALOADER.SAMPLER_TRAIN") == "RepeatFactorTrainingSampler"
    threshold = values.get("DATALOADER.REPEAT_THRESHOLD")
    values.check("DATALOADER.SAMPLER_TRAIN", ("TrainingSampler", "RepeatFactorTrainingSampler"))
    parts = [
        CocoConfig(
            **_set(values, "DATASETS.TRAIN", name),
            keep_empty=not values.get("DATALOADER.FILTER_EMPTY_ANNOTATIONS"),
            proposals=file,
            proposal_limit=max(1, values.get("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN")) if fast else 2000,
            repeat_threshold=threshold if repeat and 0 < threshold <= 1 else None,
        )
        for name, file in zip(names or ("",), proposals or (None,), strict=True)
    ]
    train: CocoConfig | MixtureConfig = parts[0] if len(parts) == 1 else MixtureConfig(parts=tuple(parts))
    train.transforms = (resize, *flips)
    test_names = values.get("DATASETS.TEST")
    val = CocoConfig(**_set(values, "DATASETS.TEST", test_names[0] if test_names else ""), transforms=view)
    if len(test_names) > 1:
        values.notes.append(f"read as: DATASETS.TEST = {list(test_names)} ({test_names[0]}; evaluate the others one by one)")
    if fast:
        val.proposals = next(iter(_proposals(values, "TEST", len(test_names))), None)
        val.proposal_limit = max(1, values.get("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"))
    return DataConfig(train=train, val=val, aspect_grouping=values.get("DATALOADER.ASPECT_RATIO_GROUPING"))


def _set(values: Values, key: str, name: str) -> dict[str, Any]:
    """The files of a data set; one that detectron2 does not know gets files of its name, and a note."""
    if name in CATALOGUE:
        return CATALOGUE[name]._asdict()
    part = "train" if key.endswith("TRAIN") else "val"
    values.notes.append(f"read as: {key} = {name!r:.60} (data/{part}.json; set data.{part}.annotations and data.{part}.images)")
    return {"annotations": f"data/{part}.json", "images": f"data/{part}"}


def _proposals(values: Values, part: str, num_sets: int) -> tuple[str | None, ...]:
    """One file for each data set; addresses become the names of the files."""
    key = f"DATASETS.PROPOSAL_FILES_{part}"
    files = values.get(key)
    if len(files) != num_sets or not all(isinstance(file, str) for file in files):
        values.refuse(key, f"a detector without an RPN needs one file for each of the {num_sets} data sets")
        return (None,) * num_sets
    if any("://" in file for file in files):
        values.notes.append(f"read as: {key} = {list(files)} (files of these names in proposals/; download them to there)")
    return tuple(f"proposals/{file.rpartition('/')[2]}" if "://" in file else file for file in files)


def _side(values: Values, key: str) -> int:
    side: int = values.get(key)
    if not 1 <= side <= MAX_SIDE:
        values.refuse(key, f"it must be 1 to {MAX_SIDE}")
        return 1333
    return side


def _train_sides(values: Values) -> tuple[int, ...]:
    sides = values.get("INPUT.MIN_SIZE_TRAIN")
    sampling = values.check("INPUT.MIN_SIZE_TRAIN_SAMPLING", ("choice", "range"))
    if (
        not sides
        or min(sides) < 1
        or max(sides) > MAX_SIDE
        or (sampling == "range" and (len(sides) != 2 or sides[1] - sides[0] > 5000))
    ):
        values.refuse("INPUT.MIN_SIZE_TRAIN", "it must be sides in pixels; of a range, the smallest and the largest")
        return (800,)
    return tuple(range(sides[0], sides[1] + 1)) or (sides[0],) if sampling == "range" else sides


# ----------------------------------------------------------------------------------------------------------------- schedule


def make_train(values: Values) -> TrainConfig:
    """Length and batch size."""
    steps, batch = values.get("SOLVER.MAX_ITER"), values.get("SOLVER.IMS_PER_BATCH")
    return TrainConfig(
        steps=max(1, steps),
        batch_size=max(1, batch),
        eval_every=max(0, values.get("TEST.EVAL_PERIOD")),
        checkpoint_every=max(1, values.get("SOLVER.CHECKPOINT_PERIOD")),
    )


def make_optim(values: Values, train: TrainConfig) -> SGDConfig:
    """The optimizer and the schedule."""
    name = values.get("SOLVER.LR_SCHEDULER_NAME")
    drops, gamma = values.get("SOLVER.STEPS"), values.get("SOLVER.GAMMA")
    schedule: ScheduleConfig = StepScheduleConfig()
    if name == "WarmupCosineLR":
        schedule = CosineScheduleConfig()
    elif name == "WarmupMultiStepLR" and 0 < gamma <= 1:
        schedule = StepScheduleConfig(drops=tuple(float(drop) / train.steps for drop in drops), gamma=gamma)
    else:
        values.leave_out("SOLVER.LR_SCHEDULER_NAME", "set optim.schedule to train on")
    decay, of_biases = values.get("SOLVER.WEIGHT_DECAY"), values.get("SOLVER.WEIGHT_DECAY_BIAS")
    warmup = values.get("SOLVER.WARMUP_FACTOR")
    return SGDConfig(
        lr=values.get("SOLVER.BASE_LR") or 0.001,
        reference_batch_size=train.batch_size,
        momentum=values.get("SOLVER.MOMENTUM"),
        weight_decay=decay,
        norm_weight_decay=values.get("SOLVER.WEIGHT_DECAY_NORM"),
        bias_weight_decay=decay if of_biases is None else of_biases,
        bias_lr_factor=values.get("SOLVER.BIAS_LR_FACTOR") or 1.0,
        schedule=schedule,
        warmup_steps=max(0, values.get("SOLVER.WARMUP_ITERS")),
        warmup_factor=warmup if 0 < warmup <= 1 else 1.0,
    )


# --------------------------------------------------------------------------------------------------------------------- test


def make_test(values: Values, model: ModelConfig) -> TestConfig:
    """The configuration of postprocessing at test time."""
    if isinstance(model, ProposerConfig):
        return TestConfig(detections_per_image=_detections(values))
    group = "RETINANET" if isinstance(model, RetinaNetConfig) else "ROI_HEADS"
    return TestConfig(
        score_threshold=values.get(f"MODEL.{group}.SCORE_THRESH_TEST"),
        nms_threshold=values.get(f"MODEL.{group}.NMS_THRESH_TEST"),
        detections_per_image=_detections(values),
    )


def _detections(values: Values) -> int:
    most: int = values.get("TEST.DETECTIONS_PER_IMAGE")
    if not 1 <= most <= MAX_SIDE:
        values.refuse("TEST.DETECTIONS_PER_IMAGE", f"it must be 1 to {MAX_SIDE}")
        return 100
    return most
