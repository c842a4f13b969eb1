"""boxwood predict."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click

from boxwood.cli.arguments import imports_option
from boxwood.errors import UserError
from boxwood.printable import printable_json

__all__ = ["predict"]


@click.command(short_help="Detect objects in pictures and videos, and draw them.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE... [test.KEY=VALUE]...")
@click.option("--model", required=True, metavar="RUN|FILE|NAME", help="A run, a .safetensors file, or a name of the zoo.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="predictions by default; none with --json.")
@click.option(
    "--score", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The lowest score of a detection that is kept."
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="How many pictures go through the model at once."
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a picture or frame, for other programs.")
@click.option("--crops", is_flag=True, help="Write each detection as a cropped picture too.")
@click.option("--no-pictures", is_flag=True, help="Draw nothing.")
@click.option("--coco", type=click.Path(path_type=Path), metavar="FILE.json", help="A COCO file of the images: write COCO results.")
@imports_option
def predict(
    sources: tuple[str, ...],
    model: str,
    out: Path | None,
    score: float,
    batch: int,
    as_json: bool,
    crops: bool,
    no_pictures: bool,
    coco: Path | None,
) -> None:
    """Detect objects in pictures and videos: one drawn picture or video an input, and predictions.json.

    SOURCE is an image, a video, a folder of them, or a pattern such as 'photos/**/*'; test.KEY=VALUE changes how outputs become
    detections. Files that cannot be read are reported and do not stop the others; of folders and patterns, drawings of earlier
    calls and files of kinds that are not read are left out and counted. Results are written as they come: an interrupted command
    resumes when it is run again.

    \b
      boxwood predict photos --model runs/nuts
      boxwood predict walk.mp4 --model runs/nuts --batch 8
      boxwood predict 'photos/**/*.jpg' --model runs/nuts --no-pictures --crops --out cut
      torchrun --nproc-per-node 8 -m boxwood predict photos --model runs/coco
      boxwood predict photos --model runs/nuts --json | jq .detections[].category
    """
    import torch

    from boxwood.distributed import process_group, rank
    from boxwood.inference.predict import iter_predictions
    from boxwood.inference.sources import is_video

    overrides = [source for source in sources if re.match(r"test\.[\w.]+=", source) and not Path(source).exists()]
    if not (sources := tuple(source for source in sources if source not in overrides)):
        raise click.UsageError("Missing argument 'SOURCE...'")
    folder = None if as_json and out is None else out or Path("predictions")
    if folder is None and (crops or coco):
        raise UserError("--crops and --coco write files, and --json alone writes none; name a folder with --out")
    if as_json and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--json prints results as they come, which one process does; under torchrun leave it out")
    files: dict[str, bool] = {}  # whether each could be read
    num_detections = 0
    with process_group(torch.device("cpu")):
        first = rank() == 0
        for prediction in iter_predictions(
            model,
            sources,
            folder,
            score=score,
            batch=batch,
            pictures=not no_pictures,
            crops=crops,
            coco=coco,
            overrides=overrides,
        ):
            files[prediction.file_name] = prediction.error is None
            num_detections += len(prediction.records)
            if as_json and not prediction.resumed:
                click.echo(printable_json(json.dumps(prediction.line(), ensure_ascii=False)))
    failed = [name for name, readable in files.items() if not readable]
    if folder is not None and not as_json and first:
        done = f"{len(files) - len(failed)} {'seen' if no_pictures else 'drawn'}"
        click.echo(f"{folder}: {done}, {num_detections} detections in predictions.json")
    if failed:
        what = "pictures and videos" if any(is_video(Path(name)) for name in files) else "pictures"
        raise UserError(f"{len(failed)} of {len(files)} {what} could not be read: {', '.join(failed)}; the others are done")
