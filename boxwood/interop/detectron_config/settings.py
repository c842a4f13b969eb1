"""Converts Detectron's keys of data, schedule and test to Boxwood's configuration."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any, NamedTuple

from boxwood.config import did_you_mean
from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.data.transforms import Transform
from boxwood.interop.detectron_config.architecture import Plan
from boxwood.interop.detectron_config.values import Values
from boxwood.models import TestConfig
from boxwood.models.inference_config import (
    BoxViewsConfig,
    KeypointViewsConfig,
    MaskViewsConfig,
    SoftNMSConfig,
    TTAConfig,
    VoteConfig,
)
from boxwood.run_config import CosineScheduleConfig, ScheduleConfig, SGDConfig, StepScheduleConfig, TrainConfig

__all__ = ["make_data", "make_optim", "make_test", "make_train"]


class _Set(NamedTuple):
    annotations: str
    images: str
    num_classes: int | None
    """With background; None if unknown."""
    has_truth: bool = True


def _catalogue() -> dict[str, _Set]:
    """Detectron's data sets by name, in the folders of the recipes and of Detectron's catalogue."""
    coco, sets = "data/coco", {}
    for prefix, kind, classes in (("coco_2014", "instances", 81), ("keypoints_coco_2014", "person_keypoints", 2)):
        for part, images in (("train", "train2014"), ("val", "val2014"), ("valminusminival", "val2014")):
            sets[f"{prefix}_{part}"] = _Set(f"{coco}/annotations/{kind}_{part}2014.json", f"{coco}/{images}", classes)
        sets[f"{prefix}_minival"] = _Set(f"{coco}/annotations/{kind}_val2017.json", f"{coco}/val2017", classes)
    for name in ("coco_2015_test", "coco_2015_test-dev", "coco_2017_test", "coco_2017_test-dev"):
        year, part = name.removeprefix("coco_").split("_")
        info = f"{coco}/annotations/image_info_{part.replace('test', f'test{year}') if part == 'test' else f'test-dev{year}'}.json"
        sets[name] = _Set(info, f"{coco}/test2015", 81, has_truth=False)
        if year == "2015":
            sets[f"keypoints_{name}"] = sets[name]._replace(num_classes=2)
    for part in ("train", "val"):
        sets[f"coco_stuff_{part}"] = _Set(f"{coco}/annotations/coco_stuff_{part}.json", f"{coco}/{part}2014", None)
    for part, file in (("train", "gtFine_train"), ("val", "filtered_gtFine_val"), ("test", "gtFine_test")):
        annotations = f"data/cityscapes/annotations/instancesonly_{file}.json"
        sets[f"cityscapes_fine_instanceonly_seg_{part}"] = _Set(annotations, "data/cityscapes/images", 9, part != "test")
    for year, parts in (("2007", ("train", "val", "test")), ("2012", ("train", "val"))):
        for part in parts:
            folder = f"data/VOC{year}"
            sets[f"voc_{year}_{part}"] = _Set(f"{folder}/annotations/voc_{year}_{part}.json", f"{folder}/JPEGImages", 21)
    return sets


CATALOGUE = _catalogue()
_WHOLE: dict[tuple[str, ...], str] = {
    ("coco_2014_train", "coco_2014_valminusminival"): "instances",
    ("keypoints_coco_2014_train", "keypoints_coco_2014_valminusminival"): "person_keypoints",
}
"""Pairs of sets that form COCO 2017's train set, and the kind of its annotations."""
_ZOO = re.compile(r"https?://\S+/\d+/\w+/(?P<stem>[^/]+?)\.yaml\.[^/]+/output/test/(?P<data>[^/]+)/\w+/rpn_proposals\.pkl")
_IMAGENET = re.compile(r"https?://\S+/ImageNetPretrained/\w+/(?P<name>[^/]+)\.pkl")
_TRAINED = re.compile(r"https?://\S+/\d+/\w+/(?P<stem>[^/]+?)(?:\.yaml\.|_\d{4}\.)[^/]+/output/train/\S+/model_final\.pkl")


# --------------------------------------------------------------------------------------------------------------------- data


def make_data(values: Values, plan: Plan) -> DataConfig:
    """Both data sets; Detectron tested on all sets in turn, Boxwood tests on the first with ground truth."""
    names = values.get("TRAIN.DATASETS")
    train = _train_set(values, names)
    val_index, val = _val_set(values)
    classes = values.get("MODEL.NUM_CLASSES")
    if classes != -1 and train.num_classes not in (None, classes):
        values.refuse("MODEL.NUM_CLASSES", f"the data set has {train.num_classes} with the background")
    elif train.num_classes is None:
        values.ignore("MODEL.NUM_CLASSES", "the data set defines it")
    resize = ResizeShortestEdge(short=values.get("TRAIN.SCALES"), long=values.get("TRAIN.MAX_SIZE"), antialias=False)
    flips: tuple[Transform, ...] = (HorizontalFlip(p=0.5),) if values.get("TRAIN.USE_FLIPPED") else ()
    data = DataConfig(
        train=CocoConfig(annotations=train.annotations, images=train.images, keep_empty=False, transforms=(resize, *flips)),
        val=CocoConfig(
            annotations=val.annotations,
            images=val.images,
            transforms=(ResizeShortestEdge(short=(values.get("TEST.SCALE"),), long=values.get("TEST.MAX_SIZE"), antialias=False),),
        ),
        aspect_grouping=values.get("TRAIN.ASPECT_GROUPING"),
    )
    if plan.second_stage and not plan.has_rpn:
        assert isinstance(data.train, CocoConfig) and isinstance(data.val, CocoConfig)
        files = _proposal_files(values, "TRAIN.PROPOSAL_FILES", len(names))
        data.train.proposals = files[0] if len(files) == 1 else files or None
        data.train.proposal_limit = None
        files = _proposal_files(values, "TEST.PROPOSAL_FILES", len(values.get("TEST.DATASETS")))
        data.val.proposals = files[val_index] if val_index < len(files) else None
        data.val.proposal_limit = values.get("TEST.PROPOSAL_LIMIT")
    elif values.get("TRAIN.PROPOSAL_FILES"):
        values.refuse("TRAIN.PROPOSAL_FILES", "a detector with an RPN, or without proposals, reads no proposal files")
    return data


def _train_set(values: Values, names: tuple[str, ...]) -> _Set:
    if (kind := _WHOLE.get(tuple(sorted(names)))) is not None:
        classes = CATALOGUE[names[0]].num_classes
        return _Set(f"data/coco/annotations/{kind}_train2017.json", "data/coco/train2017", classes)
    if len(names) == 1 and names[0] in CATALOGUE and CATALOGUE[names[0]].has_truth:
        return CATALOGUE[names[0]]
    if len(names) > 1 and all(name in CATALOGUE for name in names):
        values.refuse(
            "TRAIN.DATASETS", "a run reads one annotation file; merge the files of these sets, and set data.train afterwards"
        )
    else:
        _refuse_sets(values, "TRAIN.DATASETS", names, "data.train")
    return _Set("data/coco/annotations/instances_train2017.json", "data/coco/train2017", None)


def _val_set(values: Values) -> tuple[int, _Set]:
    """The index of the set in ``TEST.DATASETS``, and the set."""
    names = values.get("TEST.DATASETS")
    for index, name in enumerate(names):
        if name in CATALOGUE and CATALOGUE[name].has_truth:
            if len(names) > 1:
                others = "for the others run boxwood eval data.val.annotations=..."
                values.note("TEST.DATASETS", names, "read as", f"{name}; {others}")
            return index, CATALOGUE[name]
    _refuse_sets(values, "TEST.DATASETS", names, "data.val")
    return 0, _Set("data/coco/annotations/instances_val2017.json", "data/coco/val2017", None)


def _refuse_sets(values: Values, key: str, names: tuple[str, ...], into: str) -> None:
    unknown = [name for name in names if name not in CATALOGUE]
    advice = f"leave it out and set {into} afterwards"
    if not names:
        values.refuse(key, f"it must name a data set, or {advice}")
    elif unknown:
        hint = did_you_mean(unknown[0], CATALOGUE)
        values.refuse(key, f"{unknown[0]!r} is not in Detectron's catalogue{hint}; {advice}")
    else:
        values.refuse(key, f"its annotations are not public, so it serves neither training nor evaluation; {advice}")


def _proposal_files(values: Values, key: str, num_sets: int) -> tuple[str, ...]:
    """One file for each data set; files of Detectron's zoo get the names that Boxwood's recipes use, and a note."""
    given = values.get(key)
    if not given or len(given) != num_sets:
        values.refuse(key, f"a detector without an RPN needs one file for each of the {num_sets} data sets")
    files = []
    for name in given:
        if match := _match(_ZOO, name):
            file = f"proposals/{match['stem']}/{match['data']}.pkl"
            values.note(key, name, "read as", f"{file}; download it to there")
            files.append(file)
        elif "://" in name:
            values.refuse(key, f"{name} is not a file; download it and name the file")
        else:
            files.append(name)
    return tuple(files)


# ----------------------------------------------------------------------------------------------------------------- schedule


def make_train(values: Values) -> TrainConfig:
    """Length, batch size and initial weights. As in Detectron, evaluation is once, at the end."""
    gpus = values.get("NUM_GPUS")
    if gpus < 1:
        values.refuse("NUM_GPUS", "it must be at least 1")
        gpus = 1
    return TrainConfig(
        steps=values.get("SOLVER.MAX_ITER"),
        batch_size=gpus * values.get("TRAIN.IMS_PER_BATCH"),
        seed=values.get("RNG_SEED"),
        eval_every=0,
        checkpoint_every=max(1, values.get("TRAIN.SNAPSHOT_ITERS") // gpus),
        weights=_weights(values),
    )


def _weights(values: Values) -> str | None:
    name: str = values.get("TRAIN.WEIGHTS")
    if match := _match(_IMAGENET, name):
        return f"detectron/imagenet/{match['name']}"
    if match := _match(_TRAINED, name):
        return f"detectron/{match['stem']}"
    if "://" in name:
        values.refuse("TRAIN.WEIGHTS", "it is not of Detectron's zoo; download it and name the file")
    elif name:
        values.note("TRAIN.WEIGHTS", name, "read as", f"{name}; convert it first with boxwood weights import")
    return name or None


def _match(address: re.Pattern[str], name: str) -> re.Match[str] | None:
    return address.fullmatch(name) if len(name) < 1000 else None


def make_optim(values: Values, batch_size: int) -> SGDConfig:
    """The optimizer and the schedule; keys that only another policy reads are ignored."""
    policy, steps = values.get("SOLVER.LR_POLICY"), values.get("SOLVER.MAX_ITER")
    policies = {
        "steps_with_decay": ("BASE_LR", "GAMMA", "STEPS"),
        "steps_with_lrs": ("STEPS", "LRS"),
        "step": ("BASE_LR", "GAMMA", "STEP_SIZE"),
        "cosine_decay": ("BASE_LR",),
    }
    if policy not in policies:
        why = "it must be steps or a cosine" if policy == "exp_decay" else f"unknown{did_you_mean(policy, policies)}"
        values.refuse("SOLVER.LR_POLICY", why)
        policy = "steps_with_decay"
    for name in ("BASE_LR", "GAMMA", "STEPS", "LRS", "STEP_SIZE"):
        if name not in policies[policy]:
            values.ignore(f"SOLVER.{name}", f"the policy {policy} does not read it")
    lr, gamma = values.get("SOLVER.BASE_LR"), values.get("SOLVER.GAMMA")
    drops: list[int] = []
    if policy.startswith("steps"):
        drops = _steps(values)
    elif policy == "step":
        size = values.get("SOLVER.STEP_SIZE")
        if size > 0 and steps / size <= 1000:
            drops = list(range(size, steps, size))
        else:
            values.refuse("SOLVER.STEP_SIZE", "it must be more than 0, with at most 1000 drops of the learning rate")
    if policy == "steps_with_lrs":
        lr, gamma = _rates(values, len(drops))
    schedule: ScheduleConfig = CosineScheduleConfig()
    if policy != "cosine_decay":
        schedule = StepScheduleConfig(drops=tuple(drop / max(steps, 1) for drop in drops), gamma=gamma)
    return SGDConfig(
        lr=lr,
        reference_batch_size=batch_size,
        momentum=values.get("SOLVER.MOMENTUM"),
        weight_decay=values.get("SOLVER.WEIGHT_DECAY"),
        bias_lr_factor=2.0,
        schedule=schedule,
        warmup_steps=values.get("SOLVER.WARM_UP_ITERS"),
        warmup_factor=values.get("SOLVER.WARM_UP_FACTOR"),
    )


def _steps(values: Values) -> list[int]:
    steps: list[int] = values.get("SOLVER.STEPS")
    if steps[:1] != [0] or steps != sorted(set(steps)):
        values.refuse("SOLVER.STEPS", "it must begin with 0 and increase")
    return steps[1:]


def _rates(values: Values, num_drops: int) -> tuple[float, float]:
    """The first learning rate and the factor of each drop, which must be the same for all drops."""
    rates: list[float] = values.get("SOLVER.LRS")
    if len(rates) != num_drops + 1 or min(rates, default=0.0) <= 0:
        values.refuse("SOLVER.LRS", "it must have one learning rate, more than 0, for each of SOLVER.STEPS")
        return 0.001, 0.1
    factors = [after / before for before, after in pairwise(rates)]
    if any(not math.isclose(factor, factors[0], rel_tol=1e-9) for factor in factors):
        values.refuse("SOLVER.LRS", "the learning rate must fall by the same factor at each step")
    return rates[0], factors[0] if factors else 0.1


# --------------------------------------------------------------------------------------------------------------------- test


def make_test(values: Values, plan: Plan) -> TestConfig:
    """The configuration of postprocessing at test time."""
    most = values.get("TEST.DETECTIONS_PER_IM")
    if most <= 0:
        values.refuse("TEST.DETECTIONS_PER_IM", "it must be more than 0")
    return TestConfig(
        score_threshold=values.get("RETINANET.INFERENCE_TH" if plan.kind == "retinanet" else "TEST.SCORE_THRESH"),
        nms_threshold=values.get("TEST.NMS"),
        detections_per_image=most if most > 0 else 100,
        mask_threshold=values.get("MRCNN.THRESH_BINARIZE"),
        soft_nms=None if plan.kind == "rpn" else _soft_nms(values),
        vote=None if plan.kind in ("rpn", "retinanet") else _vote(values),
        keypoint_nms=0.3 if plan.keypoints and values.get("KRCNN.NMS_OKS") else None,
        tta=_augmentation(values, plan),
    )


def _soft_nms(values: Values) -> SoftNMSConfig | None:
    if not values.get("TEST.SOFT_NMS.ENABLED"):
        return None
    decay = _one_of(values, "TEST.SOFT_NMS.METHOD", ("linear", "gaussian", "hard"))
    return SoftNMSConfig(decay=decay, sigma=values.get("TEST.SOFT_NMS.SIGMA"))


def _vote(values: Values) -> VoteConfig | None:
    if not values.get("TEST.BBOX_VOTE.ENABLED"):
        return None
    methods = ("ID", "AVG", "IOU_AVG", "GENERALIZED_AVG", "QUASI_SUM", "TEMP_AVG")
    scoring = _one_of(values, "TEST.BBOX_VOTE.SCORING_METHOD", methods).lower()
    beta = values.get("TEST.BBOX_VOTE.SCORING_METHOD_BETA")
    if values.changed("TEST.BBOX_VOTE.SCORING_METHOD_BETA"):
        values.note("TEST.BBOX_VOTE.SCORING_METHOD_BETA", beta, "read as", "test.vote.beta; Detectron never read it and used 1")
    return VoteConfig(threshold=values.get("TEST.BBOX_VOTE.VOTE_TH"), scoring=scoring, beta=beta)


def _augmentation(values: Values, plan: Plan) -> TTAConfig | None:
    """Test-time augmentation; Detectron did not augment boxes for an RPN alone and for RetinaNet."""
    tta = TTAConfig()
    if plan.kind not in ("rpn", "retinanet") and values.get("TEST.BBOX_AUG.ENABLED"):
        views = _views(values, "TEST.BBOX_AUG", ("AREA_TH_LO", "AREA_TH_HI"))
        ways = [_one_of(values, f"TEST.BBOX_AUG.{key}", ("UNION", "AVG", "ID")) for key in ("SCORE_HEUR", "COORD_HEUR")]
        if plan.has_rpn and ways != ["UNION", "UNION"]:
            values.refuse("TEST.BBOX_AUG.SCORE_HEUR", "a detector with an RPN takes the union of its boxes")
            ways = ["UNION", "UNION"]
        tta.boxes = BoxViewsConfig(**views, scores=ways[0].lower(), boxes=ways[1].lower())
    if plan.masks and values.get("TEST.MASK_AUG.ENABLED"):
        heuristic = _one_of(values, "TEST.MASK_AUG.HEUR", ("SOFT_AVG", "SOFT_MAX", "LOGIT_AVG"))
        views = _views(values, "TEST.MASK_AUG", ("AREA_TH", "AREA_TH"))
        tta.masks = MaskViewsConfig(**views, combine=heuristic.lower())
    if plan.keypoints and values.get("TEST.KPS_AUG.ENABLED"):
        heuristic = _one_of(values, "TEST.KPS_AUG.HEUR", ("HM_AVG", "HM_MAX"))
        views = _views(values, "TEST.KPS_AUG", ("AREA_TH", "AREA_TH"))
        tta.keypoints = KeypointViewsConfig(**views, combine=heuristic.removeprefix("HM_").lower())
    return None if tta == TTAConfig() else tta


def _views(values: Values, group: str, areas: tuple[str, str]) -> dict[str, Any]:
    names = {
        "flip": "H_FLIP",
        "scales": "SCALES",
        "long": "MAX_SIZE",
        "scale_flip": "SCALE_H_FLIP",
        "ratios": "ASPECT_RATIOS",
        "ratio_flip": "ASPECT_RATIO_H_FLIP",
    }
    views = {ours: values.get(f"{group}.{theirs}") for ours, theirs in names.items()}
    limits = tuple(values.get(f"{group}.{key}") for key in areas)
    views["areas"] = limits if values.get(f"{group}.SCALE_SIZE_DEP") else None
    return views


def _one_of(values: Values, key: str, known: tuple[str, ...]) -> Any:
    """The value of a key that must be in ``known``; else a problem, and the first of them."""
    value = values.get(key)
    if value in known:
        return value
    values.refuse(key, f"it must be one of {', '.join(known)}")
    return known[0]
