"""The 192 keys of detectron2's configuration: their defaults, and how they are converted."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

__all__ = ["KEYS", "OFF", "Key"]


class Key(NamedTuple):
    """A key of detectron2's configuration."""

    default: Any
    """detectron2's default; every value has its type, and lists are tuples."""
    fate: Literal["read", "same", "training", "no effect"]
    """``read``: carried over; ``same``: Boxwood does what one value says, and refuses others; ``training``: a rule of training, of
    which Boxwood has only what the default says; other values get a note; ``no effect``: on the network and its results."""
    text: str = ""
    """For ``same`` what Boxwood does; for ``training`` what it trains with instead; for ``no effect`` the reason."""


def _read(default: Any) -> Key:
    return Key(default, "read")


def _same(default: Any, does: str) -> Key:
    return Key(default, "same", does)


def _training(default: Any, instead: str) -> Key:
    return Key(default, "training", instead)


def _no_effect(default: Any, why: str) -> Key:
    return Key(default, "no effect", why)


_PROGRAM = "it steers the program"
_EXPECTED = "it serves detectron2's own tests"
_OTHER = "only architectures that are refused read it"
_CLIPPING = "set optim.clip_norm to clip"
_AUG = "an additional evaluation reads it; see test.tta"
_LABELS = "labels are background, ignored, foreground"
_DELTAS = "deltas of anchors are not weighted"
_SHORT_SIDE = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)

KEYS: dict[str, Key] = {
    "VERSION": _same(2, "keys have the meaning of version 2"),
    "CUDNN_BENCHMARK": _no_effect(False, _PROGRAM),
    "FLOAT32_PRECISION": _no_effect("", _PROGRAM),
    "GLOBAL.HACK": _no_effect(1.0, "detectron2 does not read it"),
    "OUTPUT_DIR": _no_effect("./output", _PROGRAM),
    "SEED": _no_effect(-1, _PROGRAM),
    "VIS_PERIOD": _no_effect(0, _PROGRAM),
    # ----------------------------------------------------------------------------------------------------------------- data
    "DATALOADER.ASPECT_RATIO_GROUPING": _read(True),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": _read(True),
    "DATALOADER.NUM_WORKERS": _no_effect(4, _PROGRAM),
    "DATALOADER.REPEAT_SQRT": _training(True, "images are repeated by the square root of the rarity"),
    "DATALOADER.REPEAT_THRESHOLD": _read(0.0),
    "DATALOADER.SAMPLER_TRAIN": _read("TrainingSampler"),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": _read(1000),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": _read(2000),
    "DATASETS.PROPOSAL_FILES_TEST": _read(()),
    "DATASETS.PROPOSAL_FILES_TRAIN": _read(()),
    "DATASETS.TEST": _read(()),
    "DATASETS.TRAIN": _read(()),
    "INPUT.CROP.ENABLED": _training(False, "images are not cropped"),
    "INPUT.CROP.SIZE": _no_effect((0.9, 0.9), "INPUT.CROP.ENABLED is noted"),
    "INPUT.CROP.TYPE": _no_effect("relative_range", "INPUT.CROP.ENABLED is noted"),
    "INPUT.FORMAT": _read("BGR"),
    "INPUT.MASK_FORMAT": _no_effect("polygon", "both forms hold the same masks"),
    "INPUT.MAX_SIZE_TEST": _read(1333),
    "INPUT.MAX_SIZE_TRAIN": _read(1333),
    "INPUT.MIN_SIZE_TEST": _read(800),
    "INPUT.MIN_SIZE_TRAIN": _read((800,)),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _read("choice"),
    "INPUT.RANDOM_FLIP": _read("horizontal"),
    # ---------------------------------------------------------------------------------------------------------------- model
    "MODEL.DEVICE": _no_effect("cuda", _PROGRAM),
    "MODEL.KEYPOINT_ON": _read(False),
    "MODEL.LOAD_PROPOSALS": _read(False),
    "MODEL.MASK_ON": _read(False),
    "MODEL.META_ARCHITECTURE": _read("GeneralizedRCNN"),
    "MODEL.PIXEL_MEAN": _read((103.53, 116.28, 123.675)),
    "MODEL.PIXEL_STD": _read((1.0, 1.0, 1.0)),
    "MODEL.WEIGHTS": _no_effect("", "the weights are trained"),
    "MODEL.ANCHOR_GENERATOR.ANGLES": _no_effect(((-90.0, 0.0, 90.0),), "only rotated anchors have angles"),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _read(((0.5, 1.0, 2.0),)),
    "MODEL.ANCHOR_GENERATOR.NAME": _same("DefaultAnchorGenerator", "anchors are axis-aligned boxes"),
    "MODEL.ANCHOR_GENERATOR.OFFSET": _read(0.0),
    "MODEL.ANCHOR_GENERATOR.SIZES": _read(((32.0, 64.0, 128.0, 256.0, 512.0),)),
    "MODEL.BACKBONE.FREEZE_AT": _read(2),
    "MODEL.BACKBONE.NAME": _read("build_resnet_backbone"),
    "MODEL.FPN.FUSE_TYPE": _same("sum", "levels of the pyramid are added"),
    "MODEL.FPN.IN_FEATURES": _read(()),
    "MODEL.FPN.NORM": _read(""),
    "MODEL.FPN.OUT_CHANNELS": _read(256),
    "MODEL.PANOPTIC_FPN.COMBINE.ENABLED": _no_effect(True, _OTHER),
    "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH": _no_effect(0.5, _OTHER),
    "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH": _no_effect(0.5, _OTHER),
    "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT": _no_effect(4096.0, _OTHER),
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT": _no_effect(1.0, _OTHER),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": _same(0.0, "proposals of every size are kept"),
    "MODEL.PROPOSAL_GENERATOR.NAME": _read("RPN"),
    "MODEL.RESNETS.DEFORM_MODULATED": _no_effect(False, "deformable convolutions are refused"),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": _no_effect(1, "deformable convolutions are refused"),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": _same((False,) * 4, "no convolution is deformable"),
    "MODEL.RESNETS.DEPTH": _read(50),
    "MODEL.RESNETS.NORM": _read("FrozenBN"),
    "MODEL.RESNETS.NUM_GROUPS": _read(1),
    "MODEL.RESNETS.OUT_FEATURES": _read(("res4",)),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _read(256),
    "MODEL.RESNETS.RES5_DILATION": _read(1),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _same(64, "the stem of a ResNet has 64 channels"),
    "MODEL.RESNETS.STRIDE_IN_1X1": _read(True),
    "MODEL.RESNETS.WIDTH_PER_GROUP": _read(64),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": _read("smooth_l1"),
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": _same((1.0, 1.0, 1.0, 1.0), _DELTAS),
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": _read(0.25),
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": _read(2.0),
    "MODEL.RETINANET.IN_FEATURES": _same(("p3", "p4", "p5", "p6", "p7"), "RetinaNet reads the levels 3 to 7"),
    "MODEL.RETINANET.IOU_LABELS": _training((0, -1, 1), _LABELS),
    "MODEL.RETINANET.IOU_THRESHOLDS": _read((0.4, 0.5)),
    "MODEL.RETINANET.NMS_THRESH_TEST": _read(0.5),
    "MODEL.RETINANET.NORM": _same("", "towers have no norm beside a bias"),
    "MODEL.RETINANET.NUM_CLASSES": _read(80),
    "MODEL.RETINANET.NUM_CONVS": _read(4),
    "MODEL.RETINANET.PRIOR_PROB": _read(0.01),
    "MODEL.RETINANET.SCORE_THRESH_TEST": _read(0.05),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": _read(0.1),
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": _read(1000),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": _no_effect(
        ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)), _OTHER
    ),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": _no_effect((0.5, 0.6, 0.7), _OTHER),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _training("smooth_l1", "the box loss is smooth L1"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": _training(1.0, "losses are not weighted"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": _read((10.0, 10.0, 5.0, 5.0)),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": _read(False),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": _read(256),
    "MODEL.ROI_BOX_HEAD.FC_DIM": _read(1024),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": _no_effect(0.5, "USE_FED_LOSS is noted"),
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": _no_effect(50, "USE_FED_LOSS is noted"),
    "MODEL.ROI_BOX_HEAD.NAME": _read(""),
    "MODEL.ROI_BOX_HEAD.NORM": _read(""),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": _read(0),
    "MODEL.ROI_BOX_HEAD.NUM_FC": _read(0),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": _read(14),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": _read(0),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _read("ROIAlignV2"),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": _read(0.0),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": _training(False, "other heads are trained on proposals"),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": _training(False, "the loss is over all classes"),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": _same(False, "scores of classes are a softmax"),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": _read(512),
    "MODEL.ROI_HEADS.IN_FEATURES": _read(("res4",)),
    "MODEL.ROI_HEADS.IOU_LABELS": _training((0, 1), _LABELS),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": _read((0.5,)),
    "MODEL.ROI_HEADS.NAME": _read("Res5ROIHeads"),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": _read(0.5),
    "MODEL.ROI_HEADS.NUM_CLASSES": _read(80),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _read(0.25),
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": _training(True, "ground-truth boxes are among the proposals"),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _read(0.05),
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": _read((512,) * 8),
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": _training(1.0, "losses are not weighted"),
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": _training(1, "batches with few keypoints are trained on too"),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": _same("KRCNNConvDeconvUpsampleHead", "a keypoint head is convolutions and a deconvolution"),
    "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": _training(True, "the loss is over the visible keypoints"),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": _no_effect(17, "the shape of the output says it"),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": _read(14),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": _read(0),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": _read("ROIAlignV2"),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": _same(False, "each class has its own mask"),
    "MODEL.ROI_MASK_HEAD.CONV_DIM": _read(256),
    "MODEL.ROI_MASK_HEAD.NAME": _same("MaskRCNNConvUpsampleHead", "a mask head is convolutions and a deconvolution"),
    "MODEL.ROI_MASK_HEAD.NORM": _read(""),
    "MODEL.ROI_MASK_HEAD.NUM_CONV": _read(0),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": _read(14),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": _read(0),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": _read("ROIAlignV2"),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": _read(256),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _training("smooth_l1", "the box loss is smooth L1"),
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": _training(1.0, "losses are not weighted"),
    "MODEL.RPN.BBOX_REG_WEIGHTS": _same((1.0, 1.0, 1.0, 1.0), _DELTAS),
    "MODEL.RPN.BOUNDARY_THRESH": _read(-1),
    "MODEL.RPN.CONV_DIMS": _read((-1,)),
    "MODEL.RPN.HEAD_NAME": _same("StandardRPNHead", "an RPN is convolutions and two predictors"),
    "MODEL.RPN.IN_FEATURES": _read(("res4",)),
    "MODEL.RPN.IOU_LABELS": _training((0, -1, 1), _LABELS),
    "MODEL.RPN.IOU_THRESHOLDS": _read((0.3, 0.7)),
    "MODEL.RPN.LOSS_WEIGHT": _training(1.0, "losses are not weighted"),
    "MODEL.RPN.NMS_THRESH": _read(0.7),
    "MODEL.RPN.POSITIVE_FRACTION": _read(0.5),
    "MODEL.RPN.POST_NMS_TOPK_TEST": _read(1000),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": _read(2000),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": _read(6000),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": _read(12000),
    "MODEL.RPN.SMOOTH_L1_BETA": _read(0.0),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": _no_effect(4, _OTHER),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": _no_effect(128, _OTHER),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": _no_effect(255, _OTHER),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": _no_effect(("p2", "p3", "p4", "p5"), _OTHER),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": _no_effect(1.0, _OTHER),
    "MODEL.SEM_SEG_HEAD.NAME": _no_effect("SemSegFPNHead", _OTHER),
    "MODEL.SEM_SEG_HEAD.NORM": _no_effect("GN", _OTHER),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": _no_effect(54, _OTHER),
    # -------------------------------------------------------------------------------------------------------------- training
    "SOLVER.AMP.ENABLED": _training(False, "set train.precision to train in halves"),
    "SOLVER.BASE_LR": _read(0.001),
    "SOLVER.BASE_LR_END": _training(0.0, "a cosine ends at 0"),
    "SOLVER.BIAS_LR_FACTOR": _read(1.0),
    "SOLVER.CHECKPOINT_PERIOD": _read(5000),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": _no_effect("value", _CLIPPING),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _no_effect(1.0, _CLIPPING),
    "SOLVER.CLIP_GRADIENTS.ENABLED": _training(False, _CLIPPING),
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": _no_effect(2.0, _CLIPPING),
    "SOLVER.GAMMA": _read(0.1),
    "SOLVER.IMS_PER_BATCH": _read(16),
    "SOLVER.LR_SCHEDULER_NAME": _read("WarmupMultiStepLR"),
    "SOLVER.MAX_ITER": _read(40000),
    "SOLVER.MOMENTUM": _read(0.9),
    "SOLVER.NESTEROV": _training(False, "momentum is not Nesterov's"),
    "SOLVER.NUM_DECAYS": _no_effect(3, "SOLVER.LR_SCHEDULER_NAME is noted"),
    "SOLVER.REFERENCE_WORLD_SIZE": _training(0, "set optim.scale_lr to scale with the batch"),
    "SOLVER.RESCALE_INTERVAL": _no_effect(False, "SOLVER.LR_SCHEDULER_NAME is noted"),
    "SOLVER.STEPS": _read((30000,)),
    "SOLVER.WARMUP_FACTOR": _read(0.001),
    "SOLVER.WARMUP_ITERS": _read(1000),
    "SOLVER.WARMUP_METHOD": _training("linear", "the rate rises linearly"),
    "SOLVER.WEIGHT_DECAY": _read(0.0001),
    "SOLVER.WEIGHT_DECAY_BIAS": _read(None),
    "SOLVER.WEIGHT_DECAY_NORM": _read(0.0),
    # ------------------------------------------------------------------------------------------------------------------ test
    "TEST.AUG.ENABLED": _no_effect(False, _AUG),
    "TEST.AUG.FLIP": _no_effect(True, _AUG),
    "TEST.AUG.MAX_SIZE": _no_effect(4000, _AUG),
    "TEST.AUG.MIN_SIZES": _no_effect(_SHORT_SIDE, _AUG),
    "TEST.DETECTIONS_PER_IMAGE": _read(100),
    "TEST.EVAL_PERIOD": _read(0),
    "TEST.EXPECTED_RESULTS": _no_effect((), _EXPECTED),
    "TEST.KEYPOINT_OKS_SIGMAS": _no_effect((), "the sigmas belong to the classes"),
    "TEST.PRECISE_BN.ENABLED": _training(False, "statistics of batch norm are moving averages"),
    "TEST.PRECISE_BN.NUM_ITER": _no_effect(200, "TEST.PRECISE_BN.ENABLED is noted"),
}

_RPN = ("MODEL.RPN.", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE")
_SECOND_STAGE = ("MODEL.ROI_HEADS.", "MODEL.ROI_BOX_HEAD.", "MODEL.ROI_MASK_HEAD.", "MODEL.ROI_KEYPOINT_HEAD.", "MODEL.MASK_ON")

OFF: dict[str, tuple[str, ...]] = {
    "no RPN": (*_RPN, "MODEL.ANCHOR_GENERATOR."),
    "no second stage": (*_SECOND_STAGE, "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS"),
    "no masks": ("MODEL.ROI_MASK_HEAD.",),
    "no keypoints": ("MODEL.ROI_KEYPOINT_HEAD.",),
    "no RetinaNet": ("MODEL.RETINANET.",),
    "RetinaNet": (*_RPN, "MODEL.PROPOSAL_GENERATOR."),
    "no pyramid": ("MODEL.FPN.",),
    "no proposals": ("DATASETS.PROPOSAL_FILES", "DATASETS.PRECOMPUTED"),
    "C4": (*(f"MODEL.ROI_BOX_HEAD.{name}" for name in ("NAME", "NUM", "FC_DIM", "CONV_DIM", "NORM")), "MODEL.ROI_MASK_HEAD.POOLER"),
}
"""A property of an architecture, and the beginnings of the keys that have no effect on it."""
