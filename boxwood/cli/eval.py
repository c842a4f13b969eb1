"""boxwood eval."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import default_out, imports_option, overrides_argument
from boxwood.errors import UserError

__all__ = ["eval"]


@click.command(short_help="Measure a detector on the val set.")
@click.argument("source", metavar="RUN|CONFIG")
@overrides_argument
@click.option("--weights", metavar="FILE|NAME", help="The run's best.safetensors by default; a file, or a name of the zoo.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the results go; RUN/eval by default.")
@imports_option
def eval(source: str, overrides: tuple[str, ...], weights: str | None, out: Path | None) -> None:
    """Measure a detector on the val set: a table, metrics.json and detections.json; of an RPN alone proposals.safetensors.

    The data are data.val of the run's configuration, or what you set instead.

    \b
      boxwood eval runs/nuts
      boxwood eval runs/nuts data.val.annotations=test.json data.val.images=photos --out test
      torchrun --nproc-per-node 8 -m boxwood eval runs/coco
    """
    from boxwood.data.loader import eval_batches
    from boxwood.data.proposals import write_proposals
    from boxwood.distributed import choose_device, process_group, rank, world_size
    from boxwood.evaluation import CocoEvaluator, evaluate, format_table, make_evaluator, save_detections, save_metrics
    from boxwood.files import make_folder
    from boxwood.inference.predictor import prepare
    from boxwood.recipes import resolve
    from boxwood.weights.file import read_weights, restore_model
    from boxwood.weights.published import is_published, read_published

    config = resolve(source, overrides)
    path = weights or str(_weights_of_run(Path(source)))
    out = out or default_out(source) / "eval"
    device = choose_device(config.train.device)
    with process_group(device):
        val_set = config.data.val.open()
        saved = read_published(path).saved if is_published(path) and not Path(path).exists() else read_weights(path)
        if difference := saved.categories.difference(val_set.categories):
            raise UserError(
                f"{path} and data.val differ in categories: {difference} (the first is the weights); name matching data"
            )
        model = prepare(restore_model(saved, model=config.model, test=config.test, where=str(path))).to(device)
        if rank() == 0:
            make_folder(out)  # before the work, not after it
        # One image at a time, as in training, so that no image's padding depends on its neighbours.
        batches = eval_batches(
            val_set,
            config.data.val.transforms,
            batch_size=1,
            workers=config.data.workers,
            rank=rank(),
            world_size=world_size(),
        )
        evaluator = make_evaluator(val_set.to_coco(), saved.categories, class_agnostic=config.model.class_agnostic)
        metrics = evaluate(model, batches, evaluator, device)
        if rank() == 0:
            save_metrics(metrics, out / "metrics.json")
            click.echo(format_table(metrics))
            click.echo(f"\n{path} on {len(val_set)} images; written to {out}")
            if isinstance(evaluator, CocoEvaluator):
                save_detections(evaluator.records, out / "detections.json")
            else:
                file = out / "proposals.safetensors"
                write_proposals(file, evaluator.columns())
                click.echo(
                    f"Fast R-CNN learns from such a file of its train set: data.train.proposals=..., data.val.proposals={file}"
                )


def _weights_of_run(run: Path) -> Path:
    """The best weights of a run, or the last where there are no best yet."""
    folder = run.parent if run.name == "config.yaml" else run
    for name in ("best.safetensors", "last.safetensors"):
        if (folder / name).is_file():
            return folder / name
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{run}: is no run, so name the weights to evaluate with --weights FILE")
    raise UserError(f"{folder}: has neither best.safetensors nor last.safetensors yet; let it train on, or name --weights FILE")
