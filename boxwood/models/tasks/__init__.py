"""Instance tasks: predictions of a two-stage detector for a region besides class and box. Masks are one file, keypoints another.

A user-defined task is one class in one file; see ``examples/own_task.py``. Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from boxwood.lazy import lazy_names

if TYPE_CHECKING:
    from boxwood.models.tasks.dense_pose import DensePoseTask
    from boxwood.models.tasks.interaction import InteractionTask
    from boxwood.models.tasks.keypoint import KeypointTask
    from boxwood.models.tasks.mask import MaskTask
    from boxwood.models.tasks.mask_x import MaskXTask
    from boxwood.models.tasks.task import InstanceTask

__all__ = [
    "DensePoseTask",
    "InstanceTask",
    "InteractionTask",
    "KeypointTask",
    "MaskTask",
    "MaskXTask",
]

__getattr__ = lazy_names(
    __name__,
    {
        "dense_pose": ("DensePoseTask",),
        "interaction": ("InteractionTask",),
        "keypoint": ("KeypointTask",),
        "mask": ("MaskTask",),
        "mask_x": ("MaskXTask",),
        "task": ("InstanceTask",),
    },
)
