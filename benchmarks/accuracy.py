"""Accuracy beside torchvision: the same architecture, weights, data, augmentation, order and schedule, trained by both.

    python benchmarks/accuracy.py boxes --train bccd/trainval.json --val bccd/test.json --images bccd/images
    python benchmarks/accuracy.py masks --train nuts/train.json --val nuts/test.json --images nuts/images --steps 200 --batch-size 2
    python benchmarks/accuracy.py keypoints --train gluetubes/train.json --val gluetubes/val.json --images gluetubes/images
    python benchmarks/accuracy.py retinanet --train bccd/trainval.json --val bccd/test.json --images bccd/images

Ours is trained by `boxwood.train` with the recipe of the task (`RECIPES`); its `FasterRCNN`, `MaskRCNN`, `KeypointRCNN` or
`RetinaNet`, built with the same sizes, by the short loop below on the same samples in the same order. Both are scored by the same
evaluator. Each run appends one line of JSON to the file of results, and what is already there is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from hotcoco import mask as coco_mask
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import boxwood
from boxwood.data.loader import eval_batches, transformed_sample
from boxwood.data.sampler import train_order
from boxwood.evaluation import CocoEvaluator, Metrics
from boxwood.fields import DetectedKeypoints
from boxwood.recipes import resolve
from boxwood.run_config import RunConfig
from boxwood.structures import Bitmap, Categories, Detections, Sample
from boxwood.training.optimizer import build_optimizer, learning_rate, set_learning_rate

RECIPES = {
    "boxes": "faster_rcnn_mobilenetv2_fpn",
    "masks": "mask_rcnn_mobilenetv2_fpn",
    "keypoints": "keypoint_rcnn_mobilenetv2_fpn",
    "retinanet": "retinanet_mobilenetv2_fpn",
}
KINDS = {"boxes": ("bbox",), "masks": ("bbox", "segm"), "keypoints": ("bbox", "keypoints"), "retinanet": ("bbox",)}
"""The metrics of each task."""


def torchvision_model(config: RunConfig, task: str, categories: Categories) -> nn.Module:
    """torchvision's detector with the recipe's sizes."""
    sizes: Any = config.model
    features = torchvision.models.mobilenet_v2(weights="IMAGENET1K_V1", norm_layer=torchvision.ops.FrozenBatchNorm2d).features
    channels, num_classes = sizes.fpn.channels, len(categories)
    transform = config.data.train.transforms[0]
    resize = {"min_size": transform.short[0], "max_size": transform.long}  # the samples come so: nothing is resized again
    if task == "retinanet":
        head = sizes.head
        top = LastLevelP6P7(1280, channels)
        backbone = BackboneWithFPN(features, {"6": "0", "13": "1", "18": "2"}, [32, 96, 1280], channels, extra_blocks=top)
        anchors = AnchorGenerator(head.anchor_sizes, (head.anchor_ratios,) * 5)
        towers = RetinaNetHead(channels, anchors.num_anchors_per_location()[0], num_classes, partial(nn.GroupNorm, 32))
        most = config.test.detections_per_image
        return RetinaNet(backbone, num_classes, anchor_generator=anchors, head=towers, detections_per_img=most, **resize)
    backbone = BackboneWithFPN(features, {"3": "0", "6": "1", "13": "2", "18": "3"}, [24, 32, 96, 1280], channels)
    settings: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(sizes.rpn.anchor_sizes, (sizes.rpn.anchor_ratios,) * 5),
        "box_batch_size_per_image": sizes.rois.samples_per_image,
        **resize,
    }
    if task == "masks":
        width = sizes.mask_head.width
        return MaskRCNN(
            backbone,
            box_predictor=FastRCNNPredictor(1024, num_classes + 1),
            mask_head=MaskRCNNHeads(channels, (width,) * sizes.mask_head.convs, 1),
            mask_predictor=MaskRCNNPredictor(width, width, num_classes + 1),
            **settings,
        )
    if task == "keypoints":
        assert categories.keypoints is not None
        convs = KeypointRCNNHeads(channels, (sizes.keypoint_head.width,) * sizes.keypoint_head.convs)
        predictor = KeypointRCNNPredictor(sizes.keypoint_head.width, len(categories.keypoints.names))
        return KeypointRCNN(backbone, num_classes + 1, keypoint_head=convs, keypoint_predictor=predictor, **settings)
    return FasterRCNN(backbone, num_classes + 1, **settings)


def torchvision_input(sample: Sample, task: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Image and target as torchvision's references make them: labels from 1 (its RetinaNet has no background), masks of the whole
    image, no crowds."""
    keep = ~sample.crowd
    target = {"boxes": sample.boxes[keep], "labels": sample.labels[keep] + first_label(task)}
    if task == "keypoints":
        assert sample.keypoints is not None
        target["keypoints"] = sample.keypoints[keep]
    if task == "masks":
        assert sample.segmentations is not None
        height, width = sample.size
        masks = np.zeros((len(sample.segmentations), height, width), dtype=np.uint8)
        for index, segmentation in enumerate(sample.segmentations):
            if isinstance(segmentation, Bitmap):
                raise SystemExit("this benchmark draws polygons only")
            outlines = [part.ravel().tolist() for part in segmentation.parts]
            masks[index] = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, height, width)))
        target["masks"] = torch.from_numpy(masks)[keep]
    return sample.image.float() / 255, target


def first_label(task: str) -> int:
    return 0 if task == "retinanet" else 1


def train_torchvision(config: RunConfig, task: str) -> Metrics:
    dataset, val = config.data.train.open(), config.data.val.open()
    settings = config.train
    torch.manual_seed(settings.seed)
    model = torchvision_model(config, task, dataset.categories).train()
    optimizer = build_optimizer(model, config)
    wide = np.array([width >= height for height, width in map(dataset.size, range(len(dataset)))])
    order = train_order(wide, settings.batch_size, settings.seed, config.data.aspect_grouping)
    for step, places in enumerate(itertools.islice(order, settings.steps)):
        samples = [transformed_sample(dataset, config.data.train.transforms, settings.seed, place) for place in places]
        images, targets = zip(*(torchvision_input(sample, task) for sample in samples), strict=True)
        set_learning_rate(optimizer, learning_rate(step, config))
        loss = sum(model(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        if config.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"torchvision step {step + 1}/{settings.steps} loss {loss.item():.3f}", flush=True)

    model.eval()
    # Boxes and keypoints in pixels of the network's input, masks as 28 x 28 probabilities.
    model.transform.postprocess = lambda results, *_: results
    evaluator = CocoEvaluator(val.to_coco(), val.categories)
    for batch in eval_batches(val, config.data.val.transforms, batch_size=1, workers=0):
        height, width = batch.sizes[0].tolist()
        original = batch.original_sizes[0]
        with torch.no_grad():
            output = model([batch.images[0, :, :height, :width].float() / 255])[0]
        scale = torch.tensor([original[1] / width, original[0] / height])
        labels = output["labels"] - first_label(task)
        detections = TorchvisionDetections(
            output["boxes"] * scale.repeat(2), output["scores"], labels, original, val.categories.names
        )
        if task == "masks":
            detections.mask_probabilities = output["masks"][:, 0]
        if task == "keypoints":
            peaks = output["keypoints_scores"][..., None]
            points = torch.cat([output["keypoints"][..., :2] * scale, peaks], dim=2)
            detections.fields["keypoints"] = DetectedKeypoints(points)
        evaluator.add(batch.image_ids[0], detections)
    return evaluator.compute()


class TorchvisionDetections(Detections):
    """Detections whose masks torchvision's function pastes."""

    def rles(self) -> list[dict[str, Any]] | None:
        if self.mask_probabilities is None:
            return None
        pasted = paste_masks_in_image(self.mask_probabilities[:, None], self.boxes, self.size)[:, 0] >= 0.5
        codes = [coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in pasted]
        return [{"size": list(code["size"]), "counts": code["counts"].decode("ascii")} for code in codes]


def train_ours(config: RunConfig, task: str) -> Metrics:
    with tempfile.TemporaryDirectory() as folder:
        return boxwood.train(config, Path(folder) / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(RECIPES))
    parser.add_argument("--train", required=True, help="COCO annotations to learn from")
    parser.add_argument("--val", required=True, help="COCO annotations to be scored on")
    parser.add_argument("--images", required=True, help="the folder of both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--short", type=int, default=320, help="the shorter side of the pictures, in pixels")
    parser.add_argument("--only", choices=["boxwood", "torchvision"], help="train one of the two")
    parser.add_argument("--results", type=Path, default=Path("accuracy.jsonl"))
    arguments = parser.parse_args()

    overrides = [f"data.{split}.{key}={value}" for split in ("train", "val") for key, value in
                 (("annotations", getattr(arguments, split)), ("images", arguments.images))]  # fmt: skip
    overrides += [f"train.steps={arguments.steps}", f"train.batch_size={arguments.batch_size}"]
    overrides += [f"data.{split}.transforms.0.short=[{arguments.short}]" for split in ("train", "val")]
    trainers = {"boxwood": train_ours, "torchvision": train_torchvision}
    for seed, (who, trainer) in itertools.product(arguments.seeds, trainers.items()):
        run = {"task": arguments.task, "train": arguments.train, "steps": arguments.steps, "batch_size": arguments.batch_size,
               "short": arguments.short, "seed": seed, "who": who}  # fmt: skip
        if arguments.only in (None, who) and not any(run.items() <= done.items() for done in read(arguments.results)):
            start = time.perf_counter()
            config = resolve(RECIPES[arguments.task], [*overrides, f"train.seed={seed}"])
            metrics = trainer(config, arguments.task)
            minutes = (time.perf_counter() - start) / 60
            run |= {"minutes": minutes, **{kind: metrics[kind] for kind in KINDS[arguments.task]}}
            with arguments.results.open("a") as file:
                file.write(json.dumps(run) + "\n")
    report(read(arguments.results), arguments)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """AP of each seed and their mean, beside each other."""
    matching = [
        run for run in runs if run["task"] == arguments.task and run["train"] == arguments.train and run["steps"] == arguments.steps
    ]
    for kind in KINDS[arguments.task]:
        print(f"\n{kind:12}{'AP':>8}{'AP50':>8}{'AP75':>8}   AP of each seed")
        for who in ("boxwood", "torchvision"):
            tables = {run["seed"]: run[kind] for run in matching if run["who"] == who}
            if tables:
                means = [statistics.mean(table[name] for table in tables.values()) for name in ("AP", "AP50", "AP75")]
                seeds = "  ".join(f"{seed}: {table['AP']:.3f}" for seed, table in sorted(tables.items()))
                print(f"{who:12}" + "".join(f"{mean:8.3f}" for mean in means) + f"   {seeds}")


if __name__ == "__main__":
    main()
