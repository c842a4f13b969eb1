"""boxwood eval."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import default_out, imports_option, overrides_argument

__all__ = ["eval"]


@click.command(short_help="Measure a detector on the val set.")
@click.argument("source", metavar="RUN|CONFIG")
@overrides_argument
@click.option("--weights", metavar="FILE|NAME", help="The run's best.safetensors by default; a file, or a name of the zoo.")
@click.option("--detections", type=click.Path(path_type=Path), metavar="FILE", help="Score this file, and run no network.")
@click.option("--measure", metavar="KIND", help="The rules of the metric; by default the configuration's evaluator, or COCO's.")
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

    The data are data.val of the run's configuration, or what you set instead; data=FOLDER takes the val set of a folder.
    --detections scores a file that was written by this command, by another program as COCO results, or by Detectron
    (detections.pkl); where you set a test.KEY, the selection of test.* is applied to it first; the results go to RUN/eval-again by
    default.

    --measure is coco, voc2007 or voc2010 (PASCAL VOC's AP, and the result files of its development kit), lvis (AP of rare, common
    and frequent classes), cityscapes, hoi_vcoco and hoi_hico (human-object interactions), proposals (average recall, without
    classes), or a user-defined class, my_work:MyMeasure.

    \b
      boxwood eval runs/nuts
      boxwood eval runs/nuts data.val.annotations=test.json data.val.images=photos --out test
      boxwood eval runs/nuts --detections runs/nuts/eval/detections.json test.nms_threshold=0.3
      torchrun --nproc-per-node 8 -m boxwood eval runs/coco
    """
    from boxwood.evaluation import ProposalEvaluator
    from boxwood.inference.evaluate import evaluate

    out = out or default_out(source) / ("eval" if detections is None else "eval-again")
    result = evaluate(
        source,
        weights=weights,
        detections=detections,
        measure=measure,
        overrides=overrides,
        out=out,
    )
    if result.rank > 0:
        return
    click.echo(result.table())
    report = f", with the report {out / 'report.html'}" if result.has_detections else ""
    click.echo(f"\n{result.about}; written to {out}{report}")
    if result.detections_are_new and isinstance(result.evaluator, ProposalEvaluator):
        file = out / "proposals.safetensors"
        click.echo(f"Fast R-CNN trains on such a file of its train set: data.train.proposals=..., data.val.proposals={file}")
