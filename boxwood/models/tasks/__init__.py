"""Instance tasks: predictions of a two-stage detector for a region besides class and box. Masks are one file, keypoints another.

A user-defined task is one class in one file; see ``examples/own_task.py``.
"""

from boxwood.models.tasks.keypoint import KeypointTask
from boxwood.models.tasks.mask import MaskTask
from boxwood.models.tasks.task import InstanceTask

__all__ = ["InstanceTask", "KeypointTask", "MaskTask"]
