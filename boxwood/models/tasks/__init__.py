"""Instance tasks: what a two-stage detector predicts for a region besides class and box. Masks are one file, keypoints another.

A task of your own is one class in one file; see ``examples/own_task.py``.
"""

from boxwood.models.tasks.keypoint import KeypointTask
from boxwood.models.tasks.mask import MaskTask
from boxwood.models.tasks.task import InstanceTask

__all__ = ["InstanceTask", "KeypointTask", "MaskTask"]
