"""Selective search's boxes in MATLAB files, as the authors of Fast R-CNN published them (arXiv 1504.08083, section 4)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwood import safe_matlab
from boxwood.errors import UserError

__all__ = ["read_selective_search"]

logger = logging.getLogger(__name__)


def read_selective_search(
    path: Path, image_ids: Sequence[int], file_names: Sequence[str]
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Image id, boxes (n, 4) xyxy in continuous coordinates and scores (n,) of 0, for each image of a data set.

    The file has ``boxes``, a cell array with (n, 4) y1, x1, y2, x2 for each image, which count pixels from 1 and include the last
    one; and perhaps ``images``, a cell array of file names without their ending. Without names the cells are in the order of
    ``image_ids``. The log counts images of the file that the data set does not have. Raises `UserError` where the file cannot be
    read, has other contents, or lacks an image, and where names do not tell images apart; needs scipy.
    """
    content = safe_matlab.read(path, ("boxes", "images"), "name a file of selective search's boxes, or copy it again")
    if "boxes" not in content or content["boxes"].dtype != np.object_:
        raise UserError(f"{path}: holds no cell array 'boxes'; name a file of selective search's boxes")
    cells = [np.asarray(cell) for cell in content["boxes"].ravel()]
    if "images" in content:
        names = [str(np.asarray(cell).ravel()[0]) if np.asarray(cell).size else "" for cell in content["images"].ravel()]
        stems = {image_id: Path(name).stem for image_id, name in zip(image_ids, file_names, strict=True)}
        if len(names) != len(cells):
            raise UserError(f"{path}: has {len(names)} names of images for boxes of {len(cells)}; copy the file again")
        for of_names, owner in ((names, str(path)), (list(stems.values()), "the data set")):
            if twice := [name for name, count in Counter(of_names).items() if count > 1]:
                raise UserError(
                    f"{path}: '{twice[0]:.80}' is the name of two images of {owner}, so their boxes cannot be told apart"
                )
        by_name = dict(zip(names, cells, strict=True))
        of_image = {image_id: by_name[stem] for image_id, stem in stems.items() if stem in by_name}
        if others := len(by_name.keys() - set(stems.values())):
            logger.warning("%s: not read: boxes of %d images that are not in the data set", path, others)
    elif len(cells) == len(image_ids):
        of_image = dict(zip(image_ids, cells, strict=True))
    else:
        raise UserError(
            f"{path}: has boxes of {len(cells)} images, the data set has {len(image_ids)}; name the file of these images"
        )
    if missing := [image_id for image_id in image_ids if image_id not in of_image]:
        raise UserError(f"{path}: has no boxes for {len(missing)} images, such as id {missing[0]}; name the file of these images")
    for image_id in image_ids:
        boxes = of_image[image_id]
        if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf"):
            raise UserError(f"{path}: image id {image_id}: expected boxes (n, 4), got {boxes.shape}; copy the file again")
        if not np.isfinite(boxes.astype(np.float64)).all():
            raise UserError(f"{path}: image id {image_id}: has boxes of nan or infinity; copy the file again")
        y1, x1, y2, x2 = boxes.reshape(-1, 4).astype(np.float32).T
        yield image_id, np.stack([x1 - 1, y1 - 1, x2, y2], axis=1), np.zeros(len(y1), dtype=np.float32)
