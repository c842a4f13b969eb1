"""The base of every instance task.

    training:   features of positive RoIs -> head -> logits -> loss
    inference:  features of the final boxes -> head -> logits -> values -> decode -> the field of `Detections`

A task is a configuration and has no weights: its modules belong to the network, under the names that the task gives them.
Letters: B images, N instances of an image, D final instances of an image, R RoIs of the batch in one row, V views of an image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from boxwood.config import Component
from boxwood.models.heads.config import RoIHeadConfig
from boxwood.models.inference_config import TTAConfig, ViewsConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from boxwood.fields import InstanceField, TensorField
    from boxwood.models.detector import Network
    from boxwood.models.postprocess import Instances
    from boxwood.models.second_stage import RoISample
    from boxwood.structures import Batch, Categories, FirstSample, Target

__all__ = ["InstanceTask"]


class InstanceTask(Component):
    """A prediction of a two-stage detector for each region besides class and box.

    Every method is given the network, so a task may read weights of other tasks. The names of its modules in the state dict are
    ``{prefix}_head``, ``{prefix}_tail`` where the head has a copy of the backbone's tail, and those of `predictors`. One of these
    called ``{prefix}_decoder`` makes a map of the finest one's stride of all maps, which the head then reads.
    """

    name: ClassVar[str]
    """Its key in the fields of targets, instances and detections: ``masks``."""
    prefix: ClassVar[str]
    """Of its modules' names: ``mask``."""
    title: ClassVar[str] = ""
    """In the network's title: Mask (R-CNN)."""
    field_class: ClassVar[type[TensorField] | None] = None
    """The class of its field in detections; None: `boxwood.fields.TensorField`."""

    head: RoIHeadConfig
    """The layers between the features of a RoI and the predictors."""

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        """Raise `UserError` where the data set at ``key`` lacks what the task is trained on; ``first`` gives its first sample,
        before any transform. Here nothing is checked, since a transform may add the field."""

    @abstractmethod
    def predictors(self, channels: int, categories: Categories) -> dict[str, nn.Module]:
        """The layers behind the head, which returns ``channels`` channels, by their names in the state dict. Raises `UserError`
        where the data set's ``categories`` lack what they need."""

    def modules(self, network: Network, channels: int) -> dict[str, nn.Module]:
        """`predictors`, for a task whose layers depend on other parts of ``network``, of which the box head is built."""
        return self.predictors(channels, network.categories)

    @abstractmethod
    def logits(self, network: Network, features: Tensor) -> Tensor:
        """The head and the predictors on features of RoIs: (R, C, P, P) -> (R, ...)."""

    def learns(self, network: Network, sample: RoISample, targets: Sequence[Target]) -> Tensor | None:
        """(B, K) bool: the RoIs whose `logits` the loss reads, so that those of other positives are not computed; here None, which
        is all positives. It is not asked where shapes are fixed, so the loss leaves the others out by itself."""
        return None

    @abstractmethod
    def loss(
        self, network: Network, logits: Tensor, rows: Tensor, sample: RoISample, targets: Sequence[Target]
    ) -> Tensor | dict[str, Tensor]:
        """The scalar ``loss_{prefix}`` of logits (R, ...) of ``rows`` of the flattened (B, K) sample, or several by their whole
        names, which are logged one by one. Rows that are not positive have to be left out."""

    def values(self, network: Network, logits: Tensor, labels: Tensor) -> Tensor:
        """The part of the logits that inference uses (R, ...) of boxes with these labels (R,) -> (R, ...); here all of them."""
        return logits.float()

    def decode(self, network: Network, values: Tensor, rows: Tensor, instances: Instances, batch: Batch) -> Tensor:
        """From `values` of ``rows`` of the flattened (B, D) instances to the field's values, in pixels of the network's input; here
        unchanged."""
        return values

    def survivors(self, network: Network, instances: Instances) -> Tensor:
        """(B, D) bool: the valid instances, of which a task may drop some by its values."""
        return instances.valid

    def to_original(self, values: Tensor, factors: Tensor) -> Tensor:
        """`decode`'s (B, D, ...) in pixels of the original images, which are ``factors`` (B, 1, 2: x, y) times those of the
        network's input; here unchanged, as values that do not depend on the scale are."""
        return values

    def field(self, network: Network, values: Tensor) -> InstanceField:
        """The field of an image's `Detections`: (n, ...) in pixels of the original; here one of ``field_class``."""
        from boxwood.fields import TensorField

        return (self.field_class or TensorField)(values)

    def fuse(self, network: Network) -> None:
        """Replace modules by faster ones with the same results, for inference, where weights do not change any more; here none."""

    # ------------------------------------------------------------------------------------------- test-time augmentation

    def views(self, tta: TTAConfig) -> ViewsConfig:
        """The views of an image from which `values` are merged; here the ordinary one."""
        return ViewsConfig()

    def mirrored(self, network: Network, values: Tensor) -> Tensor:
        """`values` (D, ...) of a mirrored image, as they would be in the image itself."""
        return values

    def merge(self, tta: TTAConfig, values: Tensor, used: Tensor) -> Tensor:
        """Values (V, D, ...) of the views, of which ``used`` (V, D, 1, ...) count for an instance -> (D, ...); here their mean."""
        return (values * used).sum(dim=0) / used.sum(dim=0)
