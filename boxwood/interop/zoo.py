"""Published weights by name: downloaded, verified and converted when they are first used."""

from __future__ import annotations

import logging

from boxwood.interop.weights import Imported, Source, import_weights
from boxwood.run_config import RunConfig
from boxwood.zoo.download import local_file
from boxwood.zoo.table import SOURCES, find

__all__ = ["is_published", "read_published"]

logger = logging.getLogger(__name__)


def is_published(name: str) -> bool:
    """Whether ``name`` has the form of a name of the model zoo: ``detectron/...``, ``torchvision/...`` or ``densepose/...``."""
    return name.startswith(tuple(f"{source}/" for source in SOURCES))


def read_published(name: str, config: RunConfig | None = None) -> Imported:
    """The weights of the zoo's entry ``name``, from the cache or downloaded.

    A detector's file holds its configuration, or its tensors tell it; an ImageNet backbone (``detectron/imagenet/R-50``) needs
    ``config``. Raises `UserError` where there is no such entry, its file cannot be downloaded, or it does not fit the
    configuration.
    """
    entry = find(name)
    path = local_file(entry)
    caffe2 = entry.source == "detectron" or name.startswith("densepose/caffe2/")
    source: Source = "detectron" if caffe2 else "detectron2" if entry.source == "densepose" else "torchvision"
    imported = import_weights(path, source, config)
    logger.info("%s: %s", name, imported.report.summary())
    for note in imported.notes:
        logger.info("%s: %s", name, note)
    return imported
