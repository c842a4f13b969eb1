"""The configuration of InteractNet's branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from boxwood.models.backbones.config import Cells, Width
from boxwood.models.heads.config import RoIHeadConfig

if TYPE_CHECKING:
    from boxwood.models.heads.head import RoIHead
    from boxwood.models.tasks.interaction import InteractionTask

__all__ = ["InteractionHeadConfig"]


class InteractionHeadConfig(RoIHeadConfig):
    """What humans do, and with which of the detected objects (InteractNet, Gkioxari et al., 2018): two fully connected layers for
    the human-centric branch, and two more for the interaction branch."""

    short_kind: ClassVar[str] = "interaction"

    resolution: Cells = 7
    width: Width = 1024
    human: str = "person"
    """The class whose instances do something."""
    density: bool = True
    """Predict where the object of each action is, and prefer objects that are there."""
    sigma: float = Field(0.3, gt=0)
    """Of the density, in sizes of the human: how far from the predicted place an object may be."""
    interaction_branch: bool = True
    """Score a pair by the features of its object too."""
    share_human_logits: bool = True
    """The interaction branch adds the object's logits to those of the human-centric branch; false: to others of the human."""
    humans_per_image: int = Field(16, ge=1, le=10_000)
    """RoIs of humans with known actions that an image trains on, at most."""
    action_weight: float = Field(2.0, ge=0)
    """Of the loss of the human-centric actions; those of the places and of the interaction branch have the weight 1."""
    least_score: float = Field(0.001, ge=0, le=1)
    """Interactions with a lower score are not in the results."""

    def build(self, channels: int) -> RoIHead:
        from boxwood.models.heads.box import TwoFCHead

        return TwoFCHead(channels * self.resolution**2, self.width)

    def task(self) -> InteractionTask:
        """The task that this head serves."""
        from boxwood.models.tasks.interaction import InteractionTask

        return InteractionTask(head=self)
