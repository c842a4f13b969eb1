"""Images of more than 8 bits: whether a data set says what is black and white in them, and whether anything is seen of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from boxwood.data.coco_file import CocoFile
from boxwood.data.quality.checks import NUM_EXAMPLES, Finding
from boxwood.data.shards import open_pictures
from boxwood.errors import UserError
from boxwood.pixels import InMemory, StoredPixels, ValueRange, decode_image, range_of_limits, stored_pixels, suggested_range

__all__ = ["look_at_values"]

MIN_CONTRAST = 16
"""Of 255: images with less between their darkest and their lightest hundredth are named."""


def look_at_values(file: CocoFile, folder: str | Path, value_range: ValueRange | None) -> list[Finding]:
    """What is rarely intended in images of more than 8 bits, and in files of several pages; decodes the former.

    Files that cannot be read are passed over: `boxwood.data.quality.checks.check_pixels` names them.
    """
    images: list[_Image] = []
    pictures = open_pictures(folder)
    for row in range(len(file.image_ids)):
        name = file.file_name(row)
        try:
            picture = pictures.source(name)
            stored = stored_pixels(picture)
            deep = stored.limits is not None
            images.append(_Image(name, stored, _contrast(picture, value_range) if deep else None))
        except UserError:
            continue
    findings = _without_contrast(images)
    if value_range is None:
        findings += _without_range(images)
    not_finite = [image.name for image in images if not image.stored.all_finite]
    pages = [image.name for image in images if image.stored.several_pages]
    findings += _named("images with values that are not finite", not_finite, "NaN is read as black")
    return findings + _named(
        "image files of several pages or frames",
        pages,
        "the first of each is read; save the others as files of their own to use them",
    )


class _Image(NamedTuple):
    """An image file as the checks need it."""

    name: str
    stored: StoredPixels
    contrast: int | None
    """Greys between its darkest and its lightest hundredth as it is read; None for 8 bits."""

    @property
    def limits(self) -> tuple[float, float]:
        assert self.stored.limits is not None
        return self.stored.limits

    def __str__(self) -> str:
        return f"'{self.name}' has values from {self.limits[0]:g} to {self.limits[1]:g}"


def _contrast(picture: Path | InMemory, value_range: ValueRange | None) -> int:
    dark, light = np.percentile(decode_image(picture, value_range), (1, 99))
    return int(light - dark)


def _without_contrast(images: Sequence[_Image]) -> list[Finding]:
    flat = [image for image in images if image.contrast is not None and image.contrast < MIN_CONTRAST]
    return _named(
        "images of more than 8 bits that are nearly of one grey as they are read",
        [f"{image}, read as {image.contrast} of 255 greys" for image in flat],
        f"set the range of the values that matter, such as {_keys(flat)}" if flat else "",
    )


def _without_range(images: Sequence[_Image]) -> list[Finding]:
    """Without a declared range, each image is read by its own highest value."""
    deep = sorted((image for image in images if image.contrast is not None), key=lambda image: image.limits[1])
    if not deep:
        return []
    ranges = {range_of_limits(*image.limits, fractions=image.stored.fractions) for image in deep}
    if len(ranges) == 1:
        ((black, white),) = ranges
        advice = f"each is read by its own highest value, all with {black:g} as black and {white:g} as white"
        examples = [str(image) for image in deep]
    else:
        advice = "each is read by its own highest value, so that equal values differ in brightness"
        examples = [str(deep[0]), str(deep[-1])]
    problem = "images of more than 8 bits without a declared range"
    return [Finding(problem, len(deep), tuple(examples[:NUM_EXAMPLES]), advice=f"{advice}; set {_keys(deep)}", look=True)]


def _keys(images: Sequence[_Image]) -> str:
    """The keys to paste."""
    low, high = min(image.limits[0] for image in images), max(image.limits[1] for image in images)
    black, white = suggested_range(low, high, fractions=any(image.stored.fractions for image in images))
    text = f"value_range=[{black:.9g}, {white:.9g}]"
    return f"'data.train.{text}' 'data.val.{text}'"


def _named(problem: str, examples: Sequence[str], advice: str) -> list[Finding]:
    return [Finding(problem, len(examples), tuple(examples[:NUM_EXAMPLES]), advice=advice, look=True)] if examples else []
