"""The pictures and videos that a file, a folder or a pattern names, without drawings of earlier calls; and the mark of these."""

from __future__ import annotations

import glob
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from boxwood.errors import UserError
from boxwood.files import IMAGE_FORMATS, media_kind
from boxwood.pixels import quiet_decoders

__all__ = ["DRAWN_BY", "is_drawing", "is_video", "source_files"]

logger = logging.getLogger(__name__)

DRAWN_BY = "boxwood predict"
"""Stands in every drawn picture (PNG, text of the keyword Software; JPEG, comment) and video (mp4, metadata comment)."""
WEIGHTS = frozenset((".pth", ".pt", ".ckpt", ".safetensors", ".pkl", ".caffemodel", ".onnx"))
"""Endings of weights files, which no picture has."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The beginning of an address such as ``https://``; of two slashes a `Path` keeps one. A drive's letter is none."""


def source_files(source: str | Path, out: Path | None = None) -> list[Path]:
    """The images and videos of a file, a folder or a pattern (``photos/**/*``).

    A file that is named itself is taken as it is. Of a folder or pattern, drawings and crops of earlier calls (the latter in
    ``out``) are left out, and so are images and videos of kinds that are not read, with a line in the log that counts them. Raises
    `UserError` where there is nothing to read.
    """
    path = Path(source)
    if ADDRESS.match(str(source)) and not path.exists():
        raise UserError(f"{source}: is an address, and pictures are read from files; download or record it first")
    if path.is_dir():
        return _of_folder(path, out)
    if path.exists():
        if path.suffix.lower() in WEIGHTS:
            raise UserError(f"{path}: is a file of weights, not a picture; name it as the model (--model), and pictures as sources")
        return [path]
    matches = sorted(Path(name) for name in glob.glob(str(source), recursive=True) if Path(name).is_file())
    if not matches:
        raise UserError(f"{source}: no such file, folder, or pattern that fits a file")
    # A pattern such as *.dat means these files, whatever their ending; a pattern such as * what a folder means.
    files = _to_read(matches, str(source), out, any_ending=not path.name.endswith("*"))
    if not files:
        raise UserError(
            f"{source}: fits {len(matches)} files, but none is an image or video that is read (such as .jpg, .png, .tif, .mp4)"
        )
    return files


def is_video(file: Path) -> bool:
    """Whether a file is a video that is read, by the ending of its name."""
    return media_kind(file).kind == "video"


def is_drawing(file: Path) -> bool:
    """Whether `boxwood predict` has drawn a picture or video, by the mark in it."""
    if file.suffix.lower() in (".png", ".jpg"):
        try:
            with quiet_decoders, Image.open(file, formats=IMAGE_FORMATS) as image:
                return image.info.get("Software") == DRAWN_BY or image.info.get("comment") == DRAWN_BY.encode()
        except Exception:  # a damaged file, of which Pillow raises whatever it stumbles over, is no drawing
            return False
    if file.suffix.lower() == ".mp4":
        try:
            import av

            with av.open(str(file)) as container:
                return bool(container.metadata.get("comment") == DRAWN_BY)
        except Exception:  # PyAV is not installed, or raises one of its many errors of a damaged file
            return False
    return False


# ------------------------------------------------------------------------------------------------------------ internals


def _of_folder(folder: Path, out: Path | None) -> list[Path]:
    entries = sorted(folder.iterdir())
    files = _to_read([entry for entry in entries if entry.is_file()], str(folder), out, any_ending=False)
    results = () if out is None else (out.resolve(), out.resolve() / "crops")
    subfolders = [entry for entry in entries if entry.is_dir() and entry.resolve() not in results and _holds_images(entry)]
    hint = ""
    if subfolders:
        hint = (
            f"the images in its sub-folders ({len(subfolders)}, such as {subfolders[0].name}) are not taken; the pattern "
            f"'{folder}/**/*' takes them too"
        )
    if not files:
        if (folder / "config.yaml").is_file():
            hint = "it is the folder of a run: name it as the model (--model), and pictures as sources"
        raise UserError(
            f"{folder}: no images in this folder, and no videos (such as .jpg, .png, .tif, .mp4)" + (f"; {hint}" if hint else "")
        )
    if hint:
        logger.warning("%s: %s", folder, hint)
    return files


def _to_read(files: Sequence[Path], source: str, out: Path | None, *, any_ending: bool) -> list[Path]:
    """Those files that are read; a line in the log counts the others, except those that are no images at all, or that a Mac puts
    beside a file (``._photo.jpg``)."""
    files = [file for file in files if not file.name.startswith("._")]
    kinds = {file: media_kind(file) for file in files}
    if unread := [file for file in files if kinds[file].kind == "unread"]:
        counts = Counter(file.suffix.lower() for file in unread)
        counted = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
        logger.warning("%s: left out: %s, such as %s, which %s", source, counted, unread[0], kinds[unread[0]].way_out)
    crops = None if out is None else out.resolve() / "crops"
    wanted = ("image", "video", "other") if any_ending else ("image", "video")
    files = [file for file in files if kinds[file].kind in wanted]
    outputs = {file for file in files if is_drawing(file) or (crops is not None and crops in file.resolve().parents)}
    if outputs:
        logger.info(
            "%s: left out: drawings and crops of an earlier call (%d, such as %s); to detect in one, name it itself",
            source,
            len(outputs),
            min(outputs),
        )
    return [file for file in files if file not in outputs]


def _holds_images(folder: Path) -> bool:
    try:
        return any(media_kind(entry).kind == "image" for entry in folder.iterdir() if not entry.name.startswith("._"))
    except OSError:
        return False
