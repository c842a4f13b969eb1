"""Measuring a detector: run it over a data set, or score a file of its detections, and write the results.

evaluate -> Evaluation    metrics, detections, the table, the report, and the files of `boxwood eval`
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from boxwood.data import Dataset, DatasetConfig, Transform
from boxwood.data.class_order import in_order_of
from boxwood.data.loader import eval_batches
from boxwood.data.proposals import read_proposals, write_proposals
from boxwood.distributed import choose_device, process_group, rank, world_size
from boxwood.errors import UserError
from boxwood.evaluation import (
    CocoEvaluator,
    CollectingEvaluator,
    HicoEvaluator,
    LvisEvaluator,
    Measure,
    Metrics,
    ProposalEvaluator,
    VcocoEvaluator,
    VocEvaluator,
    format_table,
    make_evaluator,
    save_detections,
    save_metrics,
)
from boxwood.evaluation import evaluate as run_over_batches
from boxwood.evaluation.analysis import Analysis, analyse
from boxwood.evaluation.results import read_results, select_again
from boxwood.evaluation.truth import ImageResults
from boxwood.files import make_folder
from boxwood.inference.predictor import Predictor, prepare
from boxwood.inference.tta import augmented
from boxwood.interop.open_weights import OpenedWeights, open_weights, weights_file
from boxwood.interop.zoo import is_published
from boxwood.models import ModelConfig, TestConfig
from boxwood.models.detector import GEOMETRIES, Detector
from boxwood.models.postprocess import suppress
from boxwood.recipes import import_module, override, resolve
from boxwood.report import write_report
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from boxwood.weights.file import restore_model

__all__ = ["Evaluation", "evaluate"]

logger = logging.getLogger(__name__)

AnyEvaluator: TypeAlias = CollectingEvaluator | ProposalEvaluator
WORKERS = 2
"""Processes that load images for a model without a configuration."""


@dataclass(eq=False)
class Evaluation:
    """The results of an evaluation. Under torchrun, those of all processes; the files are written by rank 0."""

    metrics: Metrics
    """The content of ``metrics.json``: a table of numbers per task (``bbox``, ``segm``, ``keypoints``, ``proposals``, ...), AP of
    each class, errors, confusions, calibration, notes."""
    about: str
    """The evaluated model or file, and the number of images."""
    title: str
    """Name of the detector: Mask R-CNN, ResNet-50-FPN."""
    categories: Categories
    """The detector's classes."""
    dataset: Dataset
    coco: Mapping[str, Any]
    """The truth as a COCO dictionary."""
    evaluator: AnyEvaluator
    """The evaluator with the detections of all images."""
    analysis: Analysis | None = None
    """What the charts and pictures of the report are made from; None for proposals and for LVIS, and on other ranks than 0."""
    detections_are_new: bool = True
    """False for detections that were read from a file and not changed; they are not written again."""
    rank: int = 0
    """Of this process."""

    @property
    def has_detections(self) -> bool:
        """Whether the evaluator keeps the detections, as all of Boxwood's do; without them (a user-defined one need not) there is
        no report."""
        evaluator: object = self.evaluator
        return isinstance(evaluator, CollectingEvaluator | ProposalEvaluator)

    @property
    def detections(self) -> dict[int, list[dict[str, Any]]]:
        """The detections of each image by its id, as COCO results, best first; proposals have one class of the id 1. Empty where
        the evaluator does not keep them."""
        if not self.has_detections:
            return {}
        ids: Sequence[int] = (1,) if isinstance(self.evaluator, ProposalEvaluator) else self.categories.ids
        results = self.evaluator.results
        return {image_id: results[image_id].records(image_id, ids) for image_id in sorted(results)}

    @property
    def records(self) -> list[dict[str, Any]]:
        """The detections of all images as one list of COCO results."""
        return [record for records in self.detections.values() for record in records]

    def table(self) -> str:
        """The metrics as text for a terminal."""
        return format_table(self.metrics)

    def report(self, path: str | Path) -> None:
        """Write the report: one HTML page with curves, errors, confusions, and the worst and the best images."""
        write_report(
            Path(path),
            title=self.title,
            about=self.about,
            metrics=self.metrics,
            dataset=self.dataset,
            coco=self.coco,
            categories=self.categories,
            truth=self.evaluator.truth,
            results=self.evaluator.results,
            analysis=self.analysis,
        )

    def save(self, out: str | Path) -> None:
        """Write what `boxwood eval` writes to the folder ``out``: ``metrics.json``, ``detections.json`` (of an RPN alone
        ``proposals.safetensors``), ``report.html``, and the result files of VOC's, V-COCO's or HICO-DET's programs where their AP
        was computed.

        Does nothing on other ranks than 0.
        """
        if self.rank > 0:
            return
        out = Path(out)
        save_metrics(self.metrics, out / "metrics.json")
        if not self.has_detections:
            return
        if isinstance(self.evaluator, ProposalEvaluator):
            if self.detections_are_new:
                write_proposals(out / "proposals.safetensors", self.evaluator.columns())
        elif self.detections_are_new:
            save_detections(self.evaluator.records, out / "detections.json")
        if isinstance(self.evaluator, VocEvaluator):
            self.evaluator.write_devkit(out / "voc", "val")
        if isinstance(self.evaluator, VcocoEvaluator | HicoEvaluator):
            self.evaluator.write_results(out / ("vcoco" if isinstance(self.evaluator, VcocoEvaluator) else "hico"))
        self.report(out / "report.html")

    def add_analysis(self) -> None:
        """Add errors, confusions and calibration to the metrics, where the measure has them."""
        if self.rank > 0 or not isinstance(self.evaluator, CollectingEvaluator) or isinstance(self.evaluator, LvisEvaluator):
            return  # LVIS's images are not annotated exhaustively, so a detection without truth may be right
        task: Literal["bbox", "segm"] = "segm" if "segm" in self.metrics and "bbox" not in self.metrics else "bbox"
        limit = self.metrics.get("max_detections", 100)
        analysis = analyse(self.evaluator.truth, self.evaluator.results, self.categories.ids, task, limit)
        if analysis is not None:
            self.analysis = analysis
            self.metrics |= analysis.metrics()


def evaluate(
    source: str | Path | RunConfig | Predictor | Detector,
    data: DatasetConfig | Dataset | None = None,
    *,
    weights: str | Path | None = None,
    detections: str | Path | None = None,
    measure: Measure | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
) -> Evaluation:
    """Measure a detector on a data set.

    ``source`` is a run, a weights file or a name of the zoo; a configuration (`RunConfig`, or the name of one) with ``weights``; or
    a model in memory, a `Predictor` or a `Detector`, which is not changed. ``overrides`` (``key=value``) change the
    configuration. ``data`` replaces its ``data.val``, whose transforms stay; a detector in memory needs ``data``, whose
    transforms are applied. ``measure`` chooses the rules: ``coco``, ``voc2007``, ``voc2010``, ``lvis``, ``cityscapes``,
    ``hoi_vcoco``, ``hoi_hico``, ``module:Class`` or an `EvaluatorConfig`; None: the configuration's ``evaluator``, else COCO's.

    With ``detections``, a file of COCO results, Detectron's ``detections.pkl`` or a file of proposals, that file is scored and no
    network runs; where ``overrides`` set a ``test.KEY``, the selection of ``test.*`` (NMS, score threshold, number) is applied to
    it first. With ``out`` everything is written there, as `Evaluation.save` does.

    Under torchrun all its processes work together. Raises `UserError` where the weights or the data cannot be read, or their
    classes differ.
    """
    if isinstance(measure, str) and ":" in measure:
        import_module(measure.partition(":")[0])
    folder = None if out is None else Path(out)
    if isinstance(source, Detector | Predictor):
        if weights is not None or detections is not None or overrides:
            raise UserError("weights, detections and overrides belong to a configuration; a model in memory takes none of them")
        return _evaluate_in_memory(source, data, measure, folder)
    opened = None
    if weights is None and not isinstance(source, RunConfig) and _holds_configuration(source):
        opened = open_weights(source)
    config = _configuration(opened.saved.config if opened is not None else source, overrides)
    if detections is None:
        return _run_network(config, data, opened or weights or _weights_of_run(source), measure, folder)
    unused = "--weights" if weights is not None else "test.tta" if any(o.startswith("test.tta") for o in overrides) else None
    if unused is not None:
        raise UserError(f"--detections scores a file and runs no network, so {unused} has nothing to do; leave one of them out")
    select = any(text.startswith("test.") for text in overrides)
    return _score_file(config, data, Path(detections), select, measure, folder)


# ------------------------------------------------------------------------------------------------------------ internals


@dataclass(frozen=True)
class _Settings:
    """What decides how detections are compared with the truth."""

    title: str
    class_agnostic: bool
    test: TestConfig
    measure: Measure | None

    def evaluator(self, coco: Mapping[str, Any], categories: Categories) -> AnyEvaluator:
        return make_evaluator(
            coco,
            categories,
            measure=self.measure,
            class_agnostic=self.class_agnostic,
            detections_per_image=self.test.detections_per_image,
            maxdets=self.test.maxdets,
        )


def _settings(config: RunConfig, measure: Measure | None, categories: Categories) -> _Settings:
    return _Settings(config.model.title, config.model.class_agnostic, config.test, config.measure(measure, categories))


def _holds_configuration(source: str | Path) -> bool:
    """Whether ``source`` is a weights file or a name of the zoo, rather than a configuration or a run."""
    path = Path(source)
    return path.suffix in (".safetensors", ".pt") or (is_published(str(source)) and not path.exists())


def _configuration(source: str | Path | RunConfig, overrides: Sequence[str]) -> RunConfig:
    return override(source, overrides) if isinstance(source, RunConfig) else resolve(str(source), overrides)


def _weights_of_run(source: str | Path | RunConfig) -> Path:
    """The best weights of a run, else its last."""
    if isinstance(source, RunConfig):
        raise UserError("a configuration has no weights; name those to evaluate, evaluate(..., weights=FILE)")
    path = Path(source)
    if path.name != "config.yaml" and not (path / "config.yaml").is_file():
        raise UserError(f"{source}: is no run, so name the weights to evaluate with --weights FILE")
    return weights_file(path)


def _opened_data(config: RunConfig, data: DatasetConfig | Dataset | None) -> Dataset:
    """The data set to measure on."""
    if data is None:
        return config.data.val.open()
    return data.open() if isinstance(data, DatasetConfig) else data


def _run_network(
    config: RunConfig,
    data: DatasetConfig | Dataset | None,
    weights: OpenedWeights | str | Path,
    measure: Measure | None,
    out: Path | None,
) -> Evaluation:
    """Run the network over the data set."""
    device = choose_device(config.train.device)
    with process_group(device):
        dataset = _opened_data(config, data)
        opened = weights if isinstance(weights, OpenedWeights) else open_weights(weights)
        saved = opened.saved
        dataset = in_order_of(saved.categories, dataset, opened.source, "data.val")
        network = prepare(restore_model(saved, model=config.model, test=config.test, where=opened.source))
        model, transforms = augmented(network, config.data.val.transforms, config.test)
        settings, workers = _settings(config, measure, saved.categories), config.data.workers
        return _measured(model, dataset, transforms, device, settings, workers, opened.source, out)


def _evaluate_in_memory(
    source: Predictor | Detector, data: DatasetConfig | Dataset | None, measure: Measure | None, out: Path | None
) -> Evaluation:
    """Run a model that is in memory, on the device where it is."""
    model = source.model if isinstance(source, Predictor) else source
    config = source.config if isinstance(source, Predictor) else None
    if data is None and config is not None:
        data = config.data.val
    if data is None or (isinstance(source, Detector) and not isinstance(data, DatasetConfig)):
        raise UserError("a model in memory is measured on data=CONFIG, such as CocoConfig(...), whose transforms are applied")
    transforms = source.transforms if isinstance(source, Predictor) else data.transforms  # type: ignore[union-attr]  # checked
    kind = getattr(model, "config", None)
    if config is not None:
        settings, workers = _settings(config, measure, cast(Categories, model.categories)), config.data.workers
    else:
        title, class_agnostic = type(model).__name__, False
        if isinstance(kind, ModelConfig):
            title, class_agnostic = kind.title, kind.class_agnostic
        settings, workers = _Settings(title, class_agnostic, getattr(model, "test", TestConfig()), measure), WORKERS
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with process_group(device):
        dataset = data.open() if isinstance(data, DatasetConfig) else data
        dataset = in_order_of(cast(Categories, model.categories), dataset, settings.title, "data.val")
        return _measured(model, dataset, transforms, device, settings, workers, settings.title, out)


def _measured(
    model: nn.Module,
    dataset: Dataset,
    transforms: Sequence[Transform],
    device: torch.device,
    settings: _Settings,
    workers: int,
    source: str,
    out: Path | None,
) -> Evaluation:
    """Run ``model`` over a data set, compare its detections with the truth and save the results; on all processes together."""
    if out is not None and rank() == 0:
        make_folder(out)  # so that a folder that cannot be written fails before the work
    # One image at a time, as in training, so that no image's padding depends on its neighbours.
    batches = eval_batches(dataset, transforms, batch_size=1, workers=workers, rank=rank(), world_size=world_size())
    coco = dataset.to_coco()
    evaluator = settings.evaluator(coco, dataset.categories)
    metrics = run_over_batches(model.to(device), batches, evaluator, device)
    about = f"{source} on {len(dataset)} images"
    result = Evaluation(metrics, about, settings.title, dataset.categories, dataset, coco, evaluator, rank=rank())
    return _finished(result, out)


def _score_file(
    config: RunConfig, data: DatasetConfig | Dataset | None, path: Path, select: bool, measure: Measure | None, out: Path | None
) -> Evaluation:
    """Score a file of detections; with ``select``, after the selection of ``test.*``."""
    dataset = _opened_data(config, data)
    coco = dataset.to_coco()
    evaluator = _settings(config, measure, dataset.categories).evaluator(coco, dataset.categories)
    if isinstance(evaluator, ProposalEvaluator):
        evaluator.results = {i: ImageResults.of_proposals(*columns) for i, *columns in read_proposals(path).columns()}
    else:
        sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
        evaluator.results, tasks = read_results(path, dataset.categories, sizes)
        if isinstance(evaluator, CocoEvaluator):
            evaluator.tasks = tasks
    about = f"{path}: {_count(evaluator):,} detections"
    if select:
        evaluator.results = select_again(evaluator.results, _selection(config))
        about += f", {_count(evaluator):,} of them after the selection of test.*,"
    about += f" on {len(dataset)} images"
    try:
        metrics = evaluator.compute()
    except UserError as error:  # of a detection's verbs or surface, which the evaluator reads
        raise UserError(f"{path}: {error}") from None
    result = Evaluation(metrics, about, config.model.title, dataset.categories, dataset, coco, evaluator)
    result.detections_are_new = select
    return _finished(result, out)


def _selection(config: RunConfig) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The post-processing of a configuration, for `select_again`."""
    geometry, test = GEOMETRIES[config.model.geometry], config.test

    def select(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, valid = suppress(boxes, scores, labels, scores > test.score_threshold, test, geometry)
        rows = valid.nonzero()[:, 0]
        rows = rows[scores[rows].argsort(descending=True, stable=True)][: test.detections_per_image]
        return boxes[rows], scores[rows], rows

    return select


def _finished(result: Evaluation, out: Path | None) -> Evaluation:
    """Add the analysis, and save everything to ``out``."""
    result.add_analysis()
    if out is not None:
        try:
            result.save(out)
        except UserError:
            if result.rank == 0:
                logger.error("the results cannot be written; they are\n%s", result.table())
            raise
    return result


def _count(evaluator: AnyEvaluator) -> int:
    return sum(map(len, evaluator.results.values()))
