"""The model zoo: the models that Detectron and torchvision published, and their download. It imports no large package."""

from boxwood.zoo.table import Entry, entries, find, select

__all__ = ["Entry", "entries", "find", "select"]
