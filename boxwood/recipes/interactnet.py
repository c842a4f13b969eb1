"""InteractNet (Gkioxari et al., Detecting and Recognizing Human-Object Interactions, 2018): what people do, and with what.

The detector is Detectron's Faster R-CNN and starts from its published weights (``train.weights``); it goes on learning beside the
branches, its RPN is frozen, as in the paper. The schedule is the paper's: 10,000 steps of 16 images at 0.001, 3,000 at 0.0001.
Boxwood has not completed the training of these recipes yet. Variants:

* without the density or the interaction branch: ``model.interaction_head.density=false``,
  ``model.interaction_head.interaction_branch=false``;
* another R-CNN, of the zoo or trained by a recipe: a recipe of that R-CNN with ``model.interaction_head.kind=interaction``,
  ``train.weights=NAME``, and the data and ``evaluator`` of these.

Annotations are made by ``boxwood data convert`` (``docs/algorithms/interactnet.md``). V-COCO's annotations are under the MIT
licence, COCO's under CC BY 4.0, its photographs under the terms of Flickr; HICO-DET's images and annotations come without a clear
licence, so ask before any use that is not research.
"""

from __future__ import annotations

from boxwood.data import CocoConfig
from boxwood.evaluation.measures import EvaluatorConfig, HicoEvaluatorConfig, VcocoEvaluatorConfig
from boxwood.models import RCNNConfig
from boxwood.models.heads import InteractionHeadConfig
from boxwood.recipes import detectron
from boxwood.run_config import ParameterRule, RunConfig, SGDConfig, StepScheduleConfig, TrainConfig

__all__ = ["interactnet_r50_fpn_hico", "interactnet_r50_fpn_vcoco"]

DETECTOR = "detectron/e2e_faster_rcnn_R-50-FPN_1x"
"""Recipe and weights of the detector."""


def _interactnet(folder: str, images: tuple[str, str], measure: EvaluatorConfig) -> RunConfig:
    config = detectron.build(DETECTOR)
    assert isinstance(config.model, RCNNConfig)
    config.model.interaction_head = InteractionHeadConfig()
    config.model.rois.samples_per_image = 64
    for name, part in zip(("train", "val"), images, strict=True):
        transforms = getattr(config.data, name).transforms
        data = CocoConfig(annotations=f"{folder}/{name}.json", images=part, keep_empty=name == "val", transforms=transforms)
        setattr(config.data, name, data)
    config.optim = SGDConfig(
        lr=0.001,
        reference_batch_size=16,
        bias_lr_factor=2.0,
        schedule=StepScheduleConfig(drops=(10_000 / 13_000,)),
        lr_factors=(ParameterRule(pattern="rpn.*", lr=0.0),),
    )
    config.train = TrainConfig(steps=13_000, batch_size=16, weights=DETECTOR)
    config.test.nms_threshold = 0.3
    config.evaluator = measure
    return config


def interactnet_r50_fpn_vcoco() -> RunConfig:
    """InteractNet R-CNN, ResNet-50-FPN, V-COCO, 13,000 steps of 16 images from a detector's weights.

    The paper published role AP 40.0 on V-COCO's test images (24 roles, scenario 1). The zoo's detector has seen most of V-COCO's
    test images, which are of COCO's val2014: for numbers that compare, train one without them. Put COCO 2014 under
    ``data/coco``, convert V-COCO's trainval and test to ``data/vcoco/train.json`` and ``val.json``, then::

        torchrun --nproc-per-node 8 -m boxwood train interactnet_r50_fpn_vcoco
    """
    return _interactnet("data/vcoco", ("data/coco/train2014", "data/coco/val2014"), VcocoEvaluatorConfig())


def interactnet_r50_fpn_hico() -> RunConfig:
    """InteractNet R-CNN, ResNet-50-FPN, HICO-DET, 13,000 steps of 16 images from a detector's weights.

    The paper published mean AP 9.94 (Default; rare classes 7.16, others 10.77). Put HICO-DET under ``data/hico``, convert its train
    and test part to ``data/hico/train.json`` and ``val.json``, then::

        torchrun --nproc-per-node 8 -m boxwood train interactnet_r50_fpn_hico
    """
    folder = "data/hico/images"
    return _interactnet("data/hico", (f"{folder}/train2015", f"{folder}/test2015"), HicoEvaluatorConfig())
