"""boxwood eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from boxwood.cli.arguments import default_out, imports_option, overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from boxwood.data import Dataset
    from boxwood.evaluation import CollectingEvaluator, Metrics, ProposalEvaluator
    from boxwood.run_config import RunConfig
    from boxwood.structures import Categories

    AnyEvaluator: TypeAlias = CollectingEvaluator | ProposalEvaluator

__all__ = ["eval", "write_results"]


@click.command(short_help="Measure a detector on the val set.")
@click.argument("source", metavar="RUN|CONFIG")
@overrides_argument
@click.option("--weights", metavar="FILE|NAME", help="The run's best.safetensors by default; a file, or a name of the zoo.")
@click.option("--detections", type=click.Path(path_type=Path), metavar="FILE", help="Score these, and run no network.")
@click.option("--measure", metavar="KIND", help="By which rules; by default those of the configuration's evaluator, or COCO's.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the results go; RUN/eval by default.")
@imports_option
def eval(
    source: str,
    overrides: tuple[str, ...],
    weights: str | None,
    detections: Path | None,
    measure: str | None,
    out: Path | None,
) -> None:
    """Measure a detector on the val set: a table, metrics.json, detections.json (of an RPN alone proposals.safetensors), and
    report.html: curves, errors, confusions, and the worst and best images.

    The data are data.val of the run's configuration, or what you set instead. --detections scores a file that was written before,
    by this command, by another program as COCO results, or by Detectron (detections.pkl): as it is, or, where you set a test.KEY,
    with the settings of test.* applied to it once more; then the results go to RUN/eval-again by default.

    --measure is coco, voc2007 or voc2010 (PASCAL VOC's AP, and the result files of its development kit), lvis (AP of rare, common
    and frequent classes), cityscapes, proposals (average recall, without classes), or a class of your own, my_work:MyMeasure.

    \b
      boxwood eval runs/nuts
      boxwood eval runs/nuts data.val.annotations=test.json data.val.images=photos --out test
      boxwood eval runs/nuts --detections runs/nuts/eval/detections.json test.nms_threshold=0.3
      torchrun --nproc-per-node 8 -m boxwood eval runs/coco
    """
    from boxwood.evaluation import choose_measure
    from boxwood.recipes import import_module, resolve

    if measure is not None and ":" in measure:
        import_module(measure.partition(":")[0])
    config = resolve(source, overrides)
    config.evaluator = config.evaluator if measure is None else choose_measure(measure)
    if detections is None:
        _run(config, weights or str(_weights_of_run(Path(source))), out or default_out(source) / "eval")
    elif weights is not None:
        raise UserError("--detections scores a file and runs no network, so --weights has nothing to do; leave one of them out")
    elif any(override.startswith("test.tta") for override in overrides):
        raise UserError("--detections scores a file and runs no network, so test.tta has nothing to do; leave one of them out")
    else:
        again = any(override.startswith("test.") for override in overrides)
        _score_again(config, detections, again, out or default_out(source) / "eval-again")


def _run(config: RunConfig, path: str, out: Path) -> None:
    """Run the network over the val set."""
    from boxwood.data.loader import eval_batches
    from boxwood.distributed import choose_device, process_group, rank, world_size
    from boxwood.evaluation import evaluate
    from boxwood.files import make_folder
    from boxwood.inference.predictor import prepare
    from boxwood.inference.tta import augmented
    from boxwood.interop.zoo import is_published, read_published
    from boxwood.weights.file import read_weights, restore_model

    device = choose_device(config.train.device)
    with process_group(device):
        val_set = config.data.val.open()
        saved = read_published(path).saved if is_published(path) and not Path(path).exists() else read_weights(path)
        if difference := saved.categories.difference(val_set.categories):
            raise UserError(
                f"{path} and data.val differ in categories: {difference} (the first is the weights); name matching data"
            )
        network = prepare(restore_model(saved, model=config.model, test=config.test, where=path))
        model, transforms = augmented(network, config.data.val.transforms, config.test)
        if rank() == 0:
            make_folder(out)  # before the work, not after it
        # One image at a time, as in training, so that no image's padding depends on its neighbours.
        batches = eval_batches(
            val_set,
            transforms,
            batch_size=1,
            workers=config.data.workers,
            rank=rank(),
            world_size=world_size(),
        )
        truth = val_set.to_coco()
        evaluator = _evaluator(truth, saved.categories, config)
        metrics = evaluate(model.to(device), batches, evaluator, device)
        if rank() == 0:
            about = f"{path} on {len(val_set)} images"
            write_results(evaluator, metrics, config, saved.categories, val_set, truth, about, out)


def _score_again(config: RunConfig, path: Path, again: bool, out: Path) -> None:
    """Score a file of detections on the val set, ``again`` after another selection."""
    from boxwood.data.proposals import read_proposals
    from boxwood.evaluation import CocoEvaluator, ProposalEvaluator
    from boxwood.evaluation.results import read_results, select_again
    from boxwood.evaluation.truth import ImageResults
    from boxwood.models.detector import GEOMETRIES
    from boxwood.models.postprocess import suppress

    val_set = config.data.val.open()
    truth = val_set.to_coco()
    evaluator = _evaluator(truth, val_set.categories, config)
    if isinstance(evaluator, ProposalEvaluator):
        evaluator.results = {i: ImageResults.of_proposals(*columns) for i, *columns in read_proposals(path).columns()}
    else:
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        evaluator.results, tasks = read_results(path, val_set.categories, sizes)
        if isinstance(evaluator, CocoEvaluator):
            evaluator.tasks = tasks
    told = f"{path}: {sum(map(len, evaluator.results.values())):,} detections"
    if again:
        geometry = GEOMETRIES[config.model.geometry]

        def select(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            possible = scores > config.test.score_threshold
            boxes, scores, kept = suppress(boxes, scores, labels, possible, config.test, geometry)
            rows = kept.nonzero()[:, 0]
            rows = rows[scores[rows].argsort(descending=True, stable=True)][: config.test.detections_per_image]
            return boxes[rows], scores[rows], rows

        evaluator.results = select_again(evaluator.results, select)
        told += f", {sum(map(len, evaluator.results.values())):,} of them after the selection of test.*,"
    metrics = evaluator.compute()
    about = f"{told} on {len(val_set)} images"
    write_results(evaluator, metrics, config, val_set.categories, val_set, truth, about, out, keep=again)


def _evaluator(truth: dict[str, Any], categories: Categories, config: RunConfig) -> AnyEvaluator:
    from boxwood.evaluation import make_evaluator

    return make_evaluator(
        truth,
        categories,
        measure=config.evaluator,
        class_agnostic=config.model.class_agnostic,
        detections_per_image=config.test.detections_per_image,
        maxdets=config.test.maxdets,
    )


def write_results(
    evaluator: AnyEvaluator,
    metrics: Metrics,
    config: RunConfig,
    categories: Categories,
    val_set: Dataset,
    coco: dict[str, Any],
    about: str,
    out: Path,
    keep: bool = True,
) -> None:
    """Print the table, and write metrics and report; ``keep`` the detections too, which may be in a file already.

    ``metrics`` are joined by what the report adds to them. ``coco`` is ``val_set.to_coco()``.
    """
    from boxwood.data.proposals import write_proposals
    from boxwood.evaluation import LvisEvaluator, ProposalEvaluator, VocEvaluator, format_table, save_detections, save_metrics
    from boxwood.evaluation.analysis import analyse
    from boxwood.report import write_report

    analysis = None
    if not isinstance(evaluator, ProposalEvaluator | LvisEvaluator):  # LVIS does not know what is wrong where it did not look
        task: Literal["bbox", "segm"] = "segm" if "segm" in metrics and "bbox" not in metrics else "bbox"
        most = metrics.get("max_detections", 100)
        analysis = analyse(evaluator.truth, evaluator.results, categories.ids, task, most)
    if analysis is not None:
        metrics |= analysis.metrics()
    save_metrics(metrics, out / "metrics.json")
    click.echo(format_table(metrics))
    if isinstance(evaluator, ProposalEvaluator):
        if keep:
            write_proposals(out / "proposals.safetensors", evaluator.columns())
    elif keep:
        save_detections(evaluator.records, out / "detections.json")
    if isinstance(evaluator, VocEvaluator):
        evaluator.write_devkit(out / "voc", "val")
    write_report(
        out / "report.html",
        title=config.model.title,
        about=about,
        metrics=metrics,
        dataset=val_set,
        coco=coco,
        categories=categories,
        truth=evaluator.truth,
        results=evaluator.results,
        analysis=analysis,
    )
    click.echo(f"\n{about}; written to {out}, and what it means to {out / 'report.html'}")
    if keep and isinstance(evaluator, ProposalEvaluator):
        file = out / "proposals.safetensors"
        click.echo(f"Fast R-CNN learns from such a file of its train set: data.train.proposals=..., data.val.proposals={file}")


def _weights_of_run(run: Path) -> Path:
    """The best weights of a run, or the last where there are no best yet."""
    folder = run.parent if run.name == "config.yaml" else run
    for name in ("best.safetensors", "last.safetensors"):
        if (folder / name).is_file():
            return folder / name
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{run}: is no run, so name the weights to evaluate with --weights FILE")
    raise UserError(f"{folder}: has neither best.safetensors nor last.safetensors yet; let it train on, or name --weights FILE")
