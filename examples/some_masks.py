"""Masks for classes that were annotated with boxes alone: Mask^X R-CNN on generated shapes.

    boxwood data shapes --out demo/data
    boxwood train examples.some_masks:recipe --out runs/some_masks
    boxwood eval runs/some_masks                                # mask AP of both parts of the classes
    boxwood train examples.some_masks:baseline --out runs/one_mask      # one mask for all classes, to compare with

All shapes of the generated pictures have masks; those of discs, squares and rings teach, and the network never reads the others.
In a data set where the others have no ``segmentation``, leave ``mask_classes`` out: the log says which classes teach masks.
"""

from __future__ import annotations

from boxwood import RunConfig
from boxwood.data import CocoConfig
from boxwood.models import RCNNConfig
from boxwood.models.heads import MaskXHeadConfig
from boxwood.recipes import demo_shapes


def recipe() -> RunConfig:
    """The demo's recipe, with kernels of masks that are predicted from the box head's weights of each class."""
    config = demo_shapes()
    assert isinstance(config.model, RCNNConfig) and isinstance(config.data.train, CocoConfig)
    # The branch for all classes would have 48 x 28^4 weights here, more than all other layers.
    config.model.mask_head = MaskXHeadConfig(convs=2, width=48, mlp_branch=False)
    config.data.train.mask_classes = ("disc", "square", "ring")
    return config


def baseline() -> RunConfig:
    """The same, with one mask for all classes."""
    config = recipe()
    assert isinstance(config.model, RCNNConfig) and isinstance(config.model.mask_head, MaskXHeadConfig)
    config.model.mask_head.inputs = None
    return config
