"""Files of other programs as files of Boxwood's: selective search's proposals, Detectron's configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boxwood.data.coco_file import read_coco_file
from boxwood.data.formats.selective_search import read_selective_search
from boxwood.data.proposals import write_proposals
from boxwood.errors import UserError
from boxwood.files import write_text
from boxwood.interop.detectron_config import import_yaml

__all__ = ["import_detectron_config", "import_proposals"]


def import_proposals(boxes: str | Path, annotations: str | Path, out: str | Path) -> tuple[int, int]:
    """Write selective search's boxes (a MATLAB file) of the images of a COCO file as a file of proposals, which Fast R-CNN trains
    on; returns the number of boxes and of images.

    Raises `UserError` where a file cannot be read, or the boxes are of other images; needs ``pip install 'boxwood[matlab]'``.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: proposals are written as .safetensors; change the ending")
    file = read_coco_file(Path(annotations))
    names = {image_id: file.file_name(row) for row, image_id in enumerate(file.image_ids.tolist())}
    ids = sorted(names)
    proposals = list(read_selective_search(Path(boxes), ids, [names[image_id] for image_id in ids]))
    write_proposals(out, proposals)
    return sum(len(image_boxes) for _, image_boxes, _ in proposals), len(proposals)


def import_detectron_config(
    file: str | Path, pairs: Sequence[str] = (), leave_out: Sequence[str] = (), *, out: str | Path | None = None
) -> str:
    """A YAML file of Detectron's as one of Boxwood's, which can be trained as it is; written to ``out`` if there is one.

    ``pairs`` are keys and values in turn, as Detectron took them; ``leave_out`` are keys, or beginnings of keys, that need not be
    honoured. What is ignored or left out is named in comments at the top. Raises `UserError` while there is a key that cannot be
    honoured, with all such keys.
    """
    text = import_yaml(Path(file), pairs, leave_out)
    if out is not None:
        write_text(Path(out), text)
    return text
