"""The model zoo: what Detectron and torchvision published, and its download. It imports nothing large."""

from boxwood.zoo.table import Entry, entries, find, select

__all__ = ["Entry", "entries", "find", "select"]
