"""The 229 keys of Detectron's configuration: their defaults, and how they are converted.

A key is carried over into one of Boxwood's; or Boxwood always does the same as one value of it, and no other can be honoured; or it
affects neither the network nor its training nor its results, and is ignored.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

__all__ = ["DEPRECATED", "KEYS", "RENAMED", "Key"]


class Key(NamedTuple):
    """A key of Detectron's configuration."""

    default: Any
    """Detectron's default; every value has its type."""
    fate: Literal["carried", "same", "ignored"]
    text: str
    """For ``carried`` the key of Boxwood's; for ``same`` what Boxwood does; for ``ignored`` the reason."""
    honoured: tuple[Any, ...] = ()
    """For ``same``: the values that mean what Boxwood does."""
    items: type | None = None
    """For a tuple or a list: the type of its items."""


def _to(default: Any, into: str, items: type | None = None) -> Key:
    return Key(default, "carried", into, (), items)


def _same(default: Any, does: str, *honoured: Any, items: type | None = None) -> Key:
    return Key(default, "same", does, honoured or (default,), items)


def _ignored(default: Any, why: str, items: type | None = None) -> Key:
    return Key(default, "ignored", why, (), items)


_CAFFE2 = "it steered Caffe2"
_DEAD = "Detectron never read it"
_INFERRED = "Detectron derived it from other keys"
_COMMAND = "it is an option of the command"
_MOMENTUM = "PyTorch's momentum does not include the learning rate, so it is always scaled in effect"
_EXPECTED = "Boxwood does not compare its results with expected ones"
_FEW = "batches with few keypoints are trained on too"
_LEVELS = "the pyramid of R-CNN has the levels 2 to 6, its regions use 2 to 5, and RetinaNet's has 3 to 7"
_KINDS = "backbone, stem and shortcuts all have frozen batch norm, or all have group norm"

KEYS: dict[str, Key] = {
    # ------------------------------------------------------------------------------------------------------------- training
    "TRAIN.WEIGHTS": _to("", "train.weights"),
    "TRAIN.DATASETS": _to((), "data.train.annotations, data.train.images", str),
    "TRAIN.SCALES": _to((600,), "data.train.transforms.0.short", int),
    "TRAIN.MAX_SIZE": _to(1000, "data.train.transforms.0.long"),
    "TRAIN.IMS_PER_BATCH": _to(2, "train.batch_size"),
    "TRAIN.BATCH_SIZE_PER_IM": _to(64, "model.rois.samples_per_image"),
    "TRAIN.FG_FRACTION": _to(0.25, "model.rois.positive_fraction"),
    "TRAIN.FG_THRESH": _to(0.5, "model.rois.foreground_iou"),
    "TRAIN.BG_THRESH_HI": _to(0.5, "model.rois.foreground_iou"),
    "TRAIN.BG_THRESH_LO": _same(0.0, "every region below the threshold is background"),
    "TRAIN.USE_FLIPPED": _to(True, "data.train.transforms"),
    "TRAIN.BBOX_THRESH": _to(0.5, "model.rois.foreground_iou"),
    "TRAIN.SNAPSHOT_ITERS": _to(80000, "train.checkpoint_every"),
    "TRAIN.PROPOSAL_FILES": _to((), "data.train.proposals", str),
    "TRAIN.ASPECT_GROUPING": _to(True, "data.aspect_grouping"),
    "TRAIN.GENERATE_PROPOSALS_ON_GPU": _ignored(False, _CAFFE2),
    "TRAIN.RPN_POSITIVE_OVERLAP": _to(0.7, "model.rpn.foreground_iou"),
    "TRAIN.RPN_NEGATIVE_OVERLAP": _to(0.3, "model.rpn.background_iou"),
    "TRAIN.RPN_FG_FRACTION": _to(0.5, "model.rpn.positive_fraction"),
    "TRAIN.RPN_BATCH_SIZE_PER_IM": _to(256, "model.rpn.samples_per_image"),
    "TRAIN.RPN_NMS_THRESH": _to(0.7, "model.rpn.nms_threshold"),
    "TRAIN.RPN_PRE_NMS_TOP_N": _to(12000, "model.rpn.train_candidates"),
    "TRAIN.RPN_POST_NMS_TOP_N": _to(2000, "model.rpn.train_proposals"),
    "TRAIN.RPN_STRADDLE_THRESH": _to(0, "model.rpn.straddle"),
    "TRAIN.RPN_MIN_SIZE": _same(0, "proposals of every size are kept", 0, 1),
    "TRAIN.CROWD_FILTER_THRESH": _same(0.7, "the threshold of proposals in crowd regions is fixed"),
    "TRAIN.GT_MIN_AREA": _same(-1, "ground-truth boxes of every size are used", -1, 0),
    "TRAIN.FREEZE_CONV_BODY": _to(False, "model.backbone.frozen_stages"),
    "TRAIN.AUTO_RESUME": _ignored(True, f"{_COMMAND}: boxwood train --resume"),
    "TRAIN.COPY_WEIGHTS": _ignored(False, "a run does not store its initial weights"),
    "TRAIN.FREEZE_AT": _to(2, "model.backbone.frozen_stages"),
    "DATA_LOADER.NUM_THREADS": _ignored(4, "it changes no result; set data.workers to suit your machine"),
    "DATA_LOADER.MINIBATCH_QUEUE_SIZE": _ignored(64, _CAFFE2),
    "DATA_LOADER.BLOBS_QUEUE_CAPACITY": _ignored(8, _CAFFE2),
    # -------------------------------------------------------------------------------------------------------------- testing
    "TEST.WEIGHTS": _ignored("", f"{_COMMAND}: boxwood eval --weights"),
    "TEST.DATASETS": _to((), "data.val.annotations, data.val.images", str),
    "TEST.SCALE": _to(600, "data.val.transforms.0.short"),
    "TEST.MAX_SIZE": _to(1000, "data.val.transforms.0.long"),
    "TEST.NMS": _to(0.3, "test.nms_threshold"),
    "TEST.BBOX_REG": _same(True, "boxes are always regressed"),
    "TEST.PROPOSAL_FILES": _to((), "data.val.proposals", str),
    "TEST.GENERATE_PROPOSALS_ON_GPU": _ignored(False, _CAFFE2),
    "TEST.PROPOSAL_LIMIT": _to(2000, "data.val.proposal_limit"),
    "TEST.RPN_NMS_THRESH": _to(0.7, "model.rpn.nms_threshold"),
    "TEST.RPN_PRE_NMS_TOP_N": _to(12000, "model.rpn.test_candidates"),
    "TEST.RPN_POST_NMS_TOP_N": _to(2000, "model.rpn.test_proposals"),
    "TEST.RPN_MIN_SIZE": _same(0, "proposals of every size are kept", 0, 1),
    "TEST.DETECTIONS_PER_IM": _to(100, "test.detections_per_image"),
    "TEST.SCORE_THRESH": _to(0.05, "test.score_threshold"),
    "TEST.COMPETITION_MODE": _ignored(True, "boxwood eval always keeps its files, in the folder of --out"),
    "TEST.FORCE_JSON_DATASET_EVAL": _ignored(False, "COCO's metrics are computed for every data set"),
    "TEST.PRECOMPUTED_PROPOSALS": _ignored(True, _INFERRED),
    "TEST.CLASS_SPECIFIC_AR": _same(False, "the recall of proposals is class-agnostic"),
    "TEST.BBOX_AUG.ENABLED": _to(False, "test.tta.boxes"),
    "TEST.BBOX_AUG.SCORE_HEUR": _to("UNION", "test.tta.boxes.scores"),
    "TEST.BBOX_AUG.COORD_HEUR": _to("UNION", "test.tta.boxes.boxes"),
    "TEST.BBOX_AUG.H_FLIP": _to(False, "test.tta.boxes.flip"),
    "TEST.BBOX_AUG.SCALES": _to((), "test.tta.boxes.scales", int),
    "TEST.BBOX_AUG.MAX_SIZE": _to(4000, "test.tta.boxes.long"),
    "TEST.BBOX_AUG.SCALE_H_FLIP": _to(False, "test.tta.boxes.scale_flip"),
    "TEST.BBOX_AUG.SCALE_SIZE_DEP": _to(False, "test.tta.boxes.areas"),
    "TEST.BBOX_AUG.AREA_TH_LO": _to(2500, "test.tta.boxes.areas"),
    "TEST.BBOX_AUG.AREA_TH_HI": _to(32400, "test.tta.boxes.areas"),
    "TEST.BBOX_AUG.ASPECT_RATIOS": _to((), "test.tta.boxes.ratios", float),
    "TEST.BBOX_AUG.ASPECT_RATIO_H_FLIP": _to(False, "test.tta.boxes.ratio_flip"),
    "TEST.MASK_AUG.ENABLED": _to(False, "test.tta.masks"),
    "TEST.MASK_AUG.HEUR": _to("SOFT_AVG", "test.tta.masks.combine"),
    "TEST.MASK_AUG.H_FLIP": _to(False, "test.tta.masks.flip"),
    "TEST.MASK_AUG.SCALES": _to((), "test.tta.masks.scales", int),
    "TEST.MASK_AUG.MAX_SIZE": _to(4000, "test.tta.masks.long"),
    "TEST.MASK_AUG.SCALE_H_FLIP": _to(False, "test.tta.masks.scale_flip"),
    "TEST.MASK_AUG.SCALE_SIZE_DEP": _to(False, "test.tta.masks.areas"),
    "TEST.MASK_AUG.AREA_TH": _to(32400, "test.tta.masks.areas"),
    "TEST.MASK_AUG.ASPECT_RATIOS": _to((), "test.tta.masks.ratios", float),
    "TEST.MASK_AUG.ASPECT_RATIO_H_FLIP": _to(False, "test.tta.masks.ratio_flip"),
    "TEST.KPS_AUG.ENABLED": _to(False, "test.tta.keypoints"),
    "TEST.KPS_AUG.HEUR": _to("HM_AVG", "test.tta.keypoints.combine"),
    "TEST.KPS_AUG.H_FLIP": _to(False, "test.tta.keypoints.flip"),
    "TEST.KPS_AUG.SCALES": _to((), "test.tta.keypoints.scales", int),
    "TEST.KPS_AUG.MAX_SIZE": _to(4000, "test.tta.keypoints.long"),
    "TEST.KPS_AUG.SCALE_H_FLIP": _to(False, "test.tta.keypoints.scale_flip"),
    "TEST.KPS_AUG.SCALE_SIZE_DEP": _to(False, "test.tta.keypoints.areas"),
    "TEST.KPS_AUG.AREA_TH": _to(32400, "test.tta.keypoints.areas"),
    "TEST.KPS_AUG.ASPECT_RATIOS": _to((), "test.tta.keypoints.ratios", float),
    "TEST.KPS_AUG.ASPECT_RATIO_H_FLIP": _to(False, "test.tta.keypoints.ratio_flip"),
    "TEST.SOFT_NMS.ENABLED": _to(False, "test.soft_nms"),
    "TEST.SOFT_NMS.METHOD": _to("linear", "test.soft_nms.decay"),
    "TEST.SOFT_NMS.SIGMA": _to(0.5, "test.soft_nms.sigma"),
    "TEST.BBOX_VOTE.ENABLED": _to(False, "test.vote"),
    "TEST.BBOX_VOTE.VOTE_TH": _to(0.8, "test.vote.threshold"),
    "TEST.BBOX_VOTE.SCORING_METHOD": _to("ID", "test.vote.scoring"),
    "TEST.BBOX_VOTE.SCORING_METHOD_BETA": _to(1.0, "test.vote.beta"),
    # ---------------------------------------------------------------------------------------------------------------- model
    "MODEL.TYPE": _to("", "model.kind"),
    "MODEL.CONV_BODY": _to("", "model.backbone"),
    "MODEL.NUM_CLASSES": _to(-1, "the classes of the data set"),
    "MODEL.CLS_AGNOSTIC_BBOX_REG": _to(False, "model.rois.class_agnostic"),
    "MODEL.BBOX_REG_WEIGHTS": _to((10.0, 10.0, 5.0, 5.0), "model.rois.box_weights", float),
    "MODEL.FASTER_RCNN": _to(False, "model.rpn"),
    "MODEL.MASK_ON": _to(False, "model.mask_head"),
    "MODEL.KEYPOINTS_ON": _to(False, "model.keypoint_head"),
    "MODEL.RPN_ONLY": _to(False, "model.kind"),
    "MODEL.EXECUTION_TYPE": _ignored("dag", _CAFFE2),
    "RETINANET.RETINANET_ON": _to(False, "model.kind"),
    "RETINANET.ASPECT_RATIOS": _to((0.5, 1.0, 2.0), "model.head.anchor_ratios", float),
    "RETINANET.SCALES_PER_OCTAVE": _to(3, "model.head.anchor_sizes"),
    "RETINANET.ANCHOR_SCALE": _to(4, "model.head.anchor_sizes"),
    "RETINANET.NUM_CONVS": _to(4, "model.head.convs"),
    "RETINANET.BBOX_REG_WEIGHT": _same(1.0, "the losses of RetinaNet have equal weights"),
    "RETINANET.BBOX_REG_BETA": _to(0.11, "model.head.smooth_l1_beta"),
    "RETINANET.PRE_NMS_TOP_N": _to(1000, "model.head.test_candidates"),
    "RETINANET.POSITIVE_OVERLAP": _to(0.5, "model.head.foreground_iou"),
    "RETINANET.NEGATIVE_OVERLAP": _to(0.4, "model.head.background_iou"),
    "RETINANET.LOSS_ALPHA": _to(0.25, "model.head.focal_alpha"),
    "RETINANET.LOSS_GAMMA": _to(2.0, "model.head.focal_gamma"),
    "RETINANET.PRIOR_PROB": _to(0.01, "model.head.prior"),
    "RETINANET.SHARE_CLS_BBOX_TOWER": _to(False, "model.head.shared_tower"),
    "RETINANET.CLASS_SPECIFIC_BBOX": _same(False, "RetinaNet regresses one box for each anchor"),
    "RETINANET.SOFTMAX": _same(False, "RetinaNet's scores are a sigmoid per class"),
    "RETINANET.INFERENCE_TH": _to(0.05, "test.score_threshold"),
    "FAST_RCNN.ROI_BOX_HEAD": _to("", "model.box_head"),
    "FAST_RCNN.MLP_HEAD_DIM": _to(1024, "model.box_head.width"),
    "FAST_RCNN.CONV_HEAD_DIM": _to(256, "model.box_head.conv_width"),
    "FAST_RCNN.NUM_STACKED_CONVS": _to(4, "model.box_head.convs"),
    "FAST_RCNN.ROI_XFORM_METHOD": _to("RoIPoolF", "model.rois.pooling"),
    "FAST_RCNN.ROI_XFORM_SAMPLING_RATIO": _to(0, "model.rois.sampling_ratio"),
    "FAST_RCNN.ROI_XFORM_RESOLUTION": _to(14, "model.box_head.resolution"),
    "RPN.RPN_ON": _ignored(False, _INFERRED),
    "RPN.SIZES": _to((64, 128, 256, 512), "model.rpn.anchor_sizes", float),
    "RPN.STRIDE": _to(16, "the stride of the backbone's map"),
    "RPN.ASPECT_RATIOS": _to((0.5, 1, 2), "model.rpn.anchor_ratios", float),
    "FPN.FPN_ON": _to(False, "model.fpn"),
    "FPN.DIM": _to(256, "model.fpn.channels"),
    "FPN.ZERO_INIT_LATERAL": _to(False, "model.fpn.zero_init_lateral"),
    "FPN.COARSEST_STRIDE": _to(32, "model.size_divisor"),
    "FPN.MULTILEVEL_ROIS": _same(False, "with a pyramid, regions are read from all of its levels", True),
    "FPN.ROI_CANONICAL_SCALE": _same(224, "a region of 224 pixels is read from level 4"),
    "FPN.ROI_CANONICAL_LEVEL": _same(4, "a region of 224 pixels is read from level 4"),
    "FPN.ROI_MAX_LEVEL": _same(5, _LEVELS),
    "FPN.ROI_MIN_LEVEL": _same(2, _LEVELS),
    "FPN.MULTILEVEL_RPN": _same(False, "with a pyramid, anchors are on all of its levels", True),
    "FPN.RPN_MAX_LEVEL": _to(6, "the levels of model.fpn"),
    "FPN.RPN_MIN_LEVEL": _to(2, "the levels of model.fpn"),
    "FPN.RPN_ASPECT_RATIOS": _to((0.5, 1, 2), "model.rpn.anchor_ratios", float),
    "FPN.RPN_ANCHOR_START_SIZE": _to(32, "model.rpn.anchor_sizes"),
    "FPN.EXTRA_CONV_LEVELS": _to(False, "model.fpn.top"),
    "FPN.USE_GN": _to(False, "model.fpn.norm"),
    "MRCNN.ROI_MASK_HEAD": _to("", "model.mask_head"),
    "MRCNN.RESOLUTION": _to(14, "twice model.mask_head.resolution"),
    "MRCNN.ROI_XFORM_METHOD": _to("RoIAlign", "model.rois.pooling"),
    "MRCNN.ROI_XFORM_RESOLUTION": _to(7, "model.mask_head.resolution"),
    "MRCNN.ROI_XFORM_SAMPLING_RATIO": _to(0, "model.rois.sampling_ratio"),
    "MRCNN.DIM_REDUCED": _to(256, "model.mask_head.width"),
    "MRCNN.DILATION": _same(2, "the convolutions of a mask head are not dilated", 1),
    "MRCNN.UPSAMPLE_RATIO": _same(1, "masks are not upsampled after their head"),
    "MRCNN.USE_FC_OUTPUT": _same(False, "masks are predicted by a convolution"),
    "MRCNN.CONV_INIT": _same("GaussianFill", "mask heads are initialised with MSRAFill", "MSRAFill"),
    "MRCNN.CLS_SPECIFIC_MASK": _same(True, "masks are predicted per class"),
    "MRCNN.WEIGHT_LOSS_MASK": _same(1.0, "the losses of R-CNN have equal weights"),
    "MRCNN.THRESH_BINARIZE": _to(0.5, "test.mask_threshold"),
    "KRCNN.ROI_KEYPOINTS_HEAD": _to("", "model.keypoint_head"),
    "KRCNN.HEATMAP_SIZE": _to(-1, "four times model.keypoint_head.resolution"),
    "KRCNN.UP_SCALE": _same(-1, "heatmaps are doubled by a deconvolution, then by interpolation", 2),
    "KRCNN.USE_DECONV": _same(False, "a keypoint head has one deconvolution, its output"),
    "KRCNN.DECONV_DIM": _ignored(256, "it applies to the deconvolution that KRCNN.USE_DECONV adds"),
    "KRCNN.USE_DECONV_OUTPUT": _same(False, "heatmaps are doubled by a deconvolution, then by interpolation", True),
    "KRCNN.DILATION": _ignored(1, "it applies to a keypoint head on res5"),
    "KRCNN.DECONV_KERNEL": _same(4, "the deconvolution of a keypoint head is 4 x 4"),
    "KRCNN.NUM_KEYPOINTS": _ignored(-1, "the data set defines it"),
    "KRCNN.NUM_STACKED_CONVS": _to(8, "model.keypoint_head.convs"),
    "KRCNN.CONV_HEAD_DIM": _to(256, "model.keypoint_head.width"),
    "KRCNN.CONV_HEAD_KERNEL": _same(3, "the convolutions of a keypoint head are 3 x 3"),
    "KRCNN.CONV_INIT": _same("GaussianFill", "keypoint heads are initialised with MSRAFill", "MSRAFill"),
    "KRCNN.NMS_OKS": _to(False, "test.keypoint_nms"),
    "KRCNN.KEYPOINT_CONFIDENCE": _same("bbox", "the score of a person is the score of its box"),
    "KRCNN.ROI_XFORM_METHOD": _to("RoIAlign", "model.rois.pooling"),
    "KRCNN.ROI_XFORM_RESOLUTION": _to(7, "model.keypoint_head.resolution"),
    "KRCNN.ROI_XFORM_SAMPLING_RATIO": _to(0, "model.rois.sampling_ratio"),
    "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH": _same(20, _FEW, 20, 0),
    "KRCNN.INFERENCE_MIN_SIZE": _same(0, "heatmaps are resized to their box, of any size"),
    "KRCNN.LOSS_WEIGHT": _same(1.0, "the losses of R-CNN have equal weights"),
    "KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS": _same(True, "the keypoint loss is a mean over visible keypoints"),
    "RFCN.PS_GRID_SIZE": _to(3, "model.grid"),
    "RESNETS.NUM_GROUPS": _to(1, "model.backbone.groups"),
    "RESNETS.WIDTH_PER_GROUP": _to(64, "model.backbone.width_per_group"),
    "RESNETS.STRIDE_1X1": _to(True, "model.backbone.stride_in"),
    "RESNETS.TRANS_FUNC": _to("bottleneck_transformation", "model.backbone.norm"),
    "RESNETS.STEM_FUNC": _same("basic_bn_stem", _KINDS, "basic_bn_stem", "basic_gn_stem"),
    "RESNETS.SHORTCUT_FUNC": _same("basic_bn_shortcut", _KINDS, "basic_bn_shortcut", "basic_gn_shortcut"),
    "RESNETS.RES5_DILATION": _to(1, "model.backbone.last_stage"),
    "GROUP_NORM.DIM_PER_GP": _same(-1, "group norm has 32 groups"),
    "GROUP_NORM.NUM_GROUPS": _same(32, "group norm has 32 groups"),
    "GROUP_NORM.EPSILON": _same(1e-5, "group norm adds 1e-5 to a variance"),
    # ---------------------------------------------------------------------------------------------------------------- solver
    "SOLVER.BASE_LR": _to(0.001, "optim.lr"),
    "SOLVER.LR_POLICY": _to("step", "optim.schedule"),
    "SOLVER.GAMMA": _to(0.1, "optim.schedule.gamma"),
    "SOLVER.STEP_SIZE": _to(30000, "optim.schedule.drops"),
    "SOLVER.STEPS": _to([], "optim.schedule.drops", int),
    "SOLVER.LRS": _to([], "optim.lr, optim.schedule.gamma", float),
    "SOLVER.MAX_ITER": _to(40000, "train.steps"),
    "SOLVER.MOMENTUM": _to(0.9, "optim.momentum"),
    "SOLVER.WEIGHT_DECAY": _to(0.0005, "optim.weight_decay"),
    "SOLVER.WEIGHT_DECAY_GN": _same(0.0, "optim.norm_weight_decay would decay the shifts of group norm too"),
    "SOLVER.WARM_UP_ITERS": _to(500, "optim.warmup_steps"),
    "SOLVER.WARM_UP_FACTOR": _to(1.0 / 3.0, "optim.warmup_factor"),
    "SOLVER.WARM_UP_METHOD": _same("linear", "the learning rate rises linearly during warm-up"),
    "SOLVER.SCALE_MOMENTUM": _same(True, _MOMENTUM),
    "SOLVER.SCALE_MOMENTUM_THRESHOLD": _same(1.1, _MOMENTUM),
    "SOLVER.LOG_LR_CHANGE_THRESHOLD": _ignored(1.1, "the log has the learning rate in every line"),
    # ---------------------------------------------------------------------------------------------------------- all the rest
    "NUM_GPUS": _to(1, "train.batch_size; start as many processes with torchrun"),
    "USE_NCCL": _ignored(False, _CAFFE2),
    "DEDUP_BOXES": _same(1 / 16.0, "repeated proposals are left out"),
    "BBOX_XFORM_CLIP": _same(math.log(1000.0 / 16.0), "a box grows by at most 1000/16"),
    "PIXEL_MEANS": _to([[[102.9801, 115.9465, 122.7717]]], "model.pixel_mean, in the order RGB"),
    "RNG_SEED": _to(3, "train.seed"),
    "EPS": _ignored(1e-14, _DEAD),
    "ROOT_DIR": _ignored("", _CAFFE2),
    "OUTPUT_DIR": _ignored("/tmp", f"{_COMMAND}: boxwood train --out"),
    "MATLAB": _ignored("matlab", "Boxwood needs no MATLAB"),
    "MEMONGER": _ignored(True, _CAFFE2),
    "MEMONGER_SHARE_ACTIVATIONS": _ignored(False, _CAFFE2),
    "VIS": _ignored(False, f"{_COMMAND}: boxwood predict draws"),
    "VIS_TH": _ignored(0.9, f"{_COMMAND}: boxwood predict --score"),
    "EXPECTED_RESULTS": _same([], _EXPECTED),
    "EXPECTED_RESULTS_RTOL": _same(0.1, _EXPECTED),
    "EXPECTED_RESULTS_ATOL": _same(0.005, _EXPECTED),
    "EXPECTED_RESULTS_SIGMA_TOL": _same(4, _EXPECTED),
    "EXPECTED_RESULTS_EMAIL": _ignored("", "Boxwood sends no e-mail"),
    "DOWNLOAD_CACHE": _ignored("/tmp/detectron-download-cache", "it changes no result"),
    "CLUSTER.ON_CLUSTER": _ignored(False, "it changes no result"),
}

DEPRECATED = (
    "FINAL_MSG",
    "MODEL.DILATION",
    "ROOT_GPU_ID",
    "RPN.ON",
    "TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED",
    "TRAIN.DROPOUT",
    "USE_GPU_NMS",
    "TEST.NUM_TEST_IMAGES",
)
"""Old keys that Detectron ignored with a warning."""

RENAMED = {
    "MODEL.PS_GRID_SIZE": "RFCN.PS_GRID_SIZE",
    "MODEL.ROI_HEAD": "FAST_RCNN.ROI_BOX_HEAD",
    "MRCNN.MASK_HEAD_NAME": "MRCNN.ROI_MASK_HEAD",
    "TRAIN.DATASET": "TRAIN.DATASETS",
    "TRAIN.PROPOSAL_FILE": "TRAIN.PROPOSAL_FILES",
    "TEST.SCALES": "TEST.SCALE",
    "TEST.DATASET": "TEST.DATASETS",
    "TEST.PROPOSAL_FILE": "TEST.PROPOSAL_FILES",
}
"""Old keys that Detectron refused, and their new names, under which they are read here."""
