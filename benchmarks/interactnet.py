"""InteractNet on generated figures: AP of verbs and of their objects, with and without its parts, beside what needs no looking.

    python benchmarks/interactnet.py                                    # 9 trainings, each some minutes of one core
    python benchmarks/interactnet.py --seeds 0 --variants interactnet

The figures are those of ``boxwood data shapes --interactions``. In place of a detector proposals are the true boxes, moved by about
a pixel, and a Fast R-CNN on a backbone of four convolutions learns their classes and what the figures do. The numbers are V-COCO's:
AP_role (scenario 1), AP_role_2 and AP_agent. Beside them stand two guesses from the truth's boxes: ``chance``, random scores and
objects, and ``no looking``, how often each verb occurs and how near an object is to where the verb's objects are on average.

Each training appends one line of JSON to the file of results, and what is already there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import boxwood
from boxwood.data import CocoConfig, DataConfig, HorizontalFlip
from boxwood.data.proposals import write_proposals
from boxwood.data.synthetic.figures import SIZE, write_figures
from boxwood.evaluation.interactions import AGENT, PredictedInteractions, Verbs
from boxwood.evaluation.measures import VcocoEvaluatorConfig
from boxwood.evaluation.vcoco import vcoco_precisions
from boxwood.models import RCNNConfig
from boxwood.models.backbones import Backbone, BackboneConfig
from boxwood.models.config import RoIConfig
from boxwood.models.heads import InteractionHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.run_config import AdamWConfig, RunConfig, StepScheduleConfig, TrainConfig

TRAIN, VAL = 3000, 400
"""Numbers of pictures."""
COPIES, NEGATIVES = 3, 6
"""Proposals of each true box, and others, of a picture to train on."""
VARIANTS: dict[str, dict[str, bool]] = {
    "interactnet": {},
    "no density": {"density": False},
    "no interaction branch": {"interaction_branch": False},
}


class FourConvsConfig(BackboneConfig):
    width: int = 48

    def build(self) -> Backbone:
        return FourConvs(self.width)


class FourConvs(Backbone):
    """Four 3x3 convolutions with group norm; the first two halve the resolution."""

    strides = (4,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = (width,)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, width // 2, 2), (width // 2, width, 2), (width, width, 1), (width, width, 1)):
            conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layers(images)]


# ---------------------------------------------------------------------------------------------------------------- the data


def write_data(folder: Path) -> None:
    """Pictures, and proposals beside them."""
    write_figures(folder, TRAIN, VAL)
    for split, name in enumerate(("train", "val")):
        tree = json.loads((folder / f"{name}.json").read_text())
        rows: dict[int, list[np.ndarray[Any, Any]]] = {image["id"]: [] for image in tree["images"]}
        rng = np.random.default_rng([7, split])
        for annotation in tree["annotations"]:
            x, y, w, h = annotation["bbox"]
            for _ in range(COPIES if name == "train" else 1):
                rows[annotation["image_id"]].append(np.array([x, y, x + w, y + h]) + rng.normal(0, 1, 4))
        for image in rows if name == "train" else ():
            corners, sides = rng.uniform(0, SIZE - 16, (NEGATIVES, 2)), rng.uniform(8, 40, (NEGATIVES, 2))
            rows[image] += list(np.concatenate([corners, corners + sides], axis=1))
        boxes = ((image, np.stack(of_image).clip(0, SIZE).astype(np.float32)) for image, of_image in rows.items())
        write_proposals(folder / f"{name}.safetensors", [(image, table, np.ones(len(table))) for image, table in boxes])


def guesses(folder: Path) -> dict[str, dict[str, float]]:
    """The numbers of what does not look at the pictures."""
    train, val = (json.loads((folder / f"{name}.json").read_text()) for name in ("train", "val"))
    verbs = Verbs.of(train)

    def offset(human: list[float], target: list[float]) -> np.ndarray[Any, Any]:
        (x, y, w, h), (u, v, s, t) = human, target
        return np.array([(u + s / 2 - x - w / 2) / w, (v + t / 2 - y - h / 2) / h, np.log(s / w), np.log(t / h)])

    boxes = {row["id"]: row["bbox"] for row in train["annotations"]}
    done = [[row for row in train["interactions"] if row["verb_id"] == verb] for verb in verbs.ids]
    number = sum(row["category_id"] == 1 for row in train["annotations"])
    means = []
    for rows in done:
        pairs = [(boxes[row["human_id"]], boxes[row["targets"]["obj"]]) for row in rows if row["targets"].get("obj")]
        means.append(np.mean([offset(*pair) for pair in pairs], axis=0) if pairs else np.zeros(4))
    of_image: dict[int, list[dict[str, Any]]] = {}
    for row in val["annotations"]:
        of_image.setdefault(row["image_id"], []).append(row)
    results = {}
    for guess in ("chance", "no looking"):
        rng, claims = np.random.default_rng(0), []
        for image, rows in of_image.items():
            for human in (row for row in rows if row["category_id"] == 1):
                others = [row["bbox"] for row in rows if row is not human]
                for verb, roles in enumerate(verbs.roles):
                    frequency = len(done[verb]) / number if guess == "no looking" else rng.random()
                    claims.append((image, corners(human["bbox"]), verb, AGENT, None, -1, frequency))
                    if roles and others:
                        fits = [np.exp(-((offset(human["bbox"], box) - means[verb]) ** 2).sum() / 0.18) for box in others]
                        fits = fits if guess == "no looking" else rng.random(len(others)).tolist()
                        best = int(np.argmax(fits))
                        claims.append((image, corners(human["bbox"]), verb, 0, corners(others[best]), -1, frequency * fits[best]))
        tables = vcoco_precisions(val, PredictedInteractions.of_rows(claims))
        names = {"AP_role": "scenario_1", "AP_role_2": "scenario_2", "AP_agent": "agent"}
        means_of = {name: statistics.mean(row.ap for row in tables[part].values()) for name, part in names.items()}
        results[guess] = {name: round(mean, 3) for name, mean in means_of.items()}
    return results


def corners(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y + h]


# ------------------------------------------------------------------------------------------------------------- the trainings


def run_of(folder: Path, variant: str, seed: int, steps: int) -> RunConfig:
    """A training."""
    sets = {
        name: CocoConfig(
            annotations=str(folder / f"{name}.json"),
            images=str(folder / name),
            proposals=str(folder / f"{name}.safetensors"),
            transforms=transforms,
        )
        for name, transforms in (("train", (HorizontalFlip(p=0.5),)), ("val", ()))
    }
    return RunConfig(
        model=RCNNConfig(
            backbone=FourConvsConfig(),
            fpn=None,
            rpn=None,
            rois=RoIConfig(samples_per_image=40, positive_fraction=0.8, sampling_ratio=1),
            box_head=TwoFCHeadConfig(width=128),
            interaction_head=InteractionHeadConfig(width=256, **VARIANTS[variant]),
        ),
        data=DataConfig(train=sets["train"], val=sets["val"], workers=0),
        optim=AdamWConfig(
            lr=1e-3, weight_decay=0.0, reference_batch_size=16, schedule=StepScheduleConfig(drops=(0.8,)), warmup_steps=20
        ),
        train=TrainConfig(
            steps=steps, batch_size=16, seed=seed, device="cpu", eval_every=0, checkpoint_every=steps, log_every=max(1, steps // 6)
        ),
        test=TestConfig(score_threshold=0.05, detections_per_image=20),
        evaluator=VcocoEvaluatorConfig(),
    )


def measure(folder: Path, variant: str, seed: int, steps: int) -> dict[str, Any]:
    """Train once."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        metrics = boxwood.train(run_of(folder, variant, seed, steps), Path(out, "run"))
    numbers = {name: round(value, 3) for name, value in metrics["vcoco"].items()}
    return {"variant": variant, "seed": seed, "steps": steps, **numbers, "seconds": round(time.perf_counter() - start)}


def table(results: list[dict[str, Any]], of_guesses: dict[str, dict[str, float]]) -> str:
    """Means over the seeds."""
    names = ("AP_role", "AP_role_2", "AP_agent")
    lines = ["| | seeds | AP_role | AP_role_2 | AP_agent | AP_role by seed |", "|---|---|---|---|---|---|"]
    lines += [f"| {guess} | | {' | '.join(f'{numbers[name]:.3f}' for name in names)} | |" for guess, numbers in of_guesses.items()]
    for variant in VARIANTS:
        if rows := [row for row in results if row["variant"] == variant]:
            means = " | ".join(f"{statistics.mean(row[name] for row in rows):.3f}" for name in names)
            lines.append(f"| {variant} | {len(rows)} | {means} | {' '.join(str(row['AP_role']) for row in rows)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("demo/interactnet"), help="pictures and results")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if not (arguments.out / "val.safetensors").exists():
        write_data(arguments.out)
    file = arguments.out / "results.jsonl"
    results = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in arguments.seeds:
        for variant in arguments.variants:
            if not any((row["variant"], row["seed"], row["steps"]) == (variant, seed, arguments.steps) for row in results):
                results.append(measure(arguments.out, variant, seed, arguments.steps))
                with file.open("a") as lines:
                    lines.write(json.dumps(results[-1]) + "\n")
    print(table([row for row in results if row["steps"] == arguments.steps], guesses(arguments.out)))


if __name__ == "__main__":
    main()
