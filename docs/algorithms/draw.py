"""Draws the data flow of every algorithm, one SVG beside each page: ``python docs/algorithms/draw.py``.

A picture is a grid of boxes. What the network learns, what is arithmetic, what flows and what only training does look different,
and the picture brings its own paper, so that it can be read on a light page and on a dark one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

Kind = Literal["data", "learned", "function", "loss"]

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, LEGEND = 164, 62, 30, 44, 18, 34
FILL: dict[Kind, str] = {"data": "#ffffff", "learned": "#bcd7f2", "function": "#e9e4d8", "loss": "#f6cdbb"}
MEANING: dict[Kind, str] = {"learned": "learned", "function": "a function", "data": "data", "loss": "a loss"}
INK, FAINT, PAPER = "#1d2733", "#55606d", "#fbfaf6"


@dataclass(frozen=True)
class Box:
    """One box: where it stands in the grid, its title, and a line or two below it."""

    column: int
    row: int
    kind: Kind
    title: str
    lines: tuple[str, ...] = ()

    @property
    def x(self) -> int:
        return MARGIN + self.column * (WIDTH + GAP_X)

    @property
    def y(self) -> int:
        return MARGIN + self.row * (HEIGHT + GAP_Y)


@dataclass(frozen=True)
class Arrow:
    """From a box to another. ``shift`` moves its run between two rows, and its ends, so that arrows do not lie on each other."""

    start: str
    end: str
    training: bool = False
    shift: int = 0


@dataclass(frozen=True)
class Picture:
    title: str
    boxes: dict[str, Box]
    arrows: tuple[Arrow, ...]


def path(start: Box, end: Box, shift: int) -> str:
    """Straight to a neighbour; between rows down, along the gap above the lower box, and down again."""
    middle = WIDTH // 2
    if start.row == end.row:
        y = start.y + HEIGHT // 2 + shift
        left_to_right = start.column < end.column
        a, b = (start.x + WIDTH, end.x - 3) if left_to_right else (start.x, end.x + WIDTH + 3)
        return f"M{a} {y}H{b}"
    if start.row > end.row:
        return f"M{start.x + middle + shift} {start.y}V{end.y + HEIGHT + 3}"
    lane = end.y - GAP_Y // 2 + shift // 2
    return f"M{start.x + middle + shift} {start.y + HEIGHT}V{lane}H{end.x + middle + shift}V{end.y - 3}"


def svg(picture: Picture) -> str:
    width = 2 * MARGIN + 5 * WIDTH + 4 * GAP_X
    rows = 1 + max(box.row for box in picture.boxes.values())
    bottom = MARGIN + rows * HEIGHT + (rows - 1) * GAP_Y
    height = bottom + LEGEND + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        f"<title>{escape(picture.title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>',
    ]
    for arrow in picture.arrows:
        dashes = ' stroke-dasharray="5 4"' if arrow.training else ""
        way = path(picture.boxes[arrow.start], picture.boxes[arrow.end], arrow.shift)
        parts.append(f'<path d="{way}" fill="none" stroke="{INK}" stroke-width="1.4"{dashes} marker-end="url(#tip)"/>')
    for box in picture.boxes.values():
        parts.append(_rectangle(box.x, box.y, WIDTH, HEIGHT, box.kind))
        first = box.y + HEIGHT / 2 + 4.5 - 8 * len(box.lines)
        parts.append(_text(box.x + WIDTH / 2, first, box.title, INK, "middle", bold=True))
        for number, line in enumerate(box.lines, start=1):
            parts.append(_text(box.x + WIDTH / 2, first + 16 * number, line, FAINT, "middle", size=12))
    x = float(MARGIN)
    for kind, meaning in MEANING.items():
        parts += [_rectangle(x, bottom + LEGEND - 12, 18, 14, kind), _text(x + 24, bottom + LEGEND, meaning, FAINT, "start")]
        x += 118
    parts.append(
        f'<path d="M{x} {bottom + LEGEND - 5}h30" stroke="{INK}" stroke-width="1.4" stroke-dasharray="5 4" '
        'marker-end="url(#tip)"/>' + _text(x + 38, bottom + LEGEND, "in training alone", FAINT, "start")
    )
    return "\n".join([*parts, "</svg>", ""])


def _rectangle(x: float, y: float, width: int, height: int, kind: Kind) -> str:
    radius = min(height // 2, 14) if kind == "data" else 5
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{FILL[kind]}" stroke="{INK}"/>'


def _text(x: float, y: float, text: str, ink: str, anchor: str, *, bold: bool = False, size: int = 13) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{ink}" font-size="{size}"{weight}>{escape(text)}</text>'


# ---------------------------------------------------------------------------------------------------------- the pictures

IMAGES = Box(0, 0, "data", "images", ("B x 3 x H x W",))
BODY = Box(1, 0, "learned", "backbone", ("maps of stride 4 to 32",))
PYRAMID = Box(2, 0, "learned", "feature pyramid", ("P2 to P6, 256 channels",))
RPN = Box(3, 0, "learned", "RPN", ("A anchors:", "logits, deltas"))
PROPOSE = Box(4, 0, "function", "propose", ("best of each level, NMS", "B x K x 4"))
TRUNK = (Arrow("images", "body"), Arrow("body", "pyramid"))
WITH_RPN = (*TRUNK, Arrow("pyramid", "rpn"), Arrow("rpn", "propose"))

SAMPLE = Box(0, 1, "function", "sample_rois", ("proposals and truth:", "512 RoIs an image"))
TRUTH = Box(0, 2, "data", "truth", ("boxes and labels",))
ALIGN = Box(1, 1, "function", "RoIAlign", ("each RoI from the level", "of its size, 7 x 7"))
BOX_HEAD = Box(2, 1, "learned", "box head", ("two layers of 1,024",))
PREDICTIONS = Box(3, 1, "learned", "two linear layers", ("class logits  B x K x C+1", "box deltas  B x K x C x 4"))
SELECT = Box(4, 1, "function", "select_instances", ("threshold, NMS a class,", "the best 100"))
SECOND_STAGE = {"sample": SAMPLE, "truth": TRUTH, "align": ALIGN, "head": BOX_HEAD, "predictions": PREDICTIONS, "select": SELECT}
SECOND_STAGE_ARROWS = (
    Arrow("propose", "sample", training=True, shift=-14),
    Arrow("propose", "align", shift=10),
    Arrow("pyramid", "align", shift=-6),
    Arrow("sample", "align", training=True),
    Arrow("truth", "sample", training=True, shift=-30),
    Arrow("align", "head"),
    Arrow("head", "predictions"),
    Arrow("predictions", "select"),
)
FASTER = {"images": IMAGES, "body": BODY, "pyramid": PYRAMID, "rpn": RPN, "propose": PROPOSE, **SECOND_STAGE}


def third_stage(name: str, output: str, finish: str) -> tuple[dict[str, Box], tuple[Arrow, ...]]:
    """The mask or the keypoint head, after the boxes are known."""
    boxes = {
        "truth": Box(0, 2, "data", "truth", (f"boxes, labels, {name}s",)),
        "align again": Box(1, 2, "function", "RoIAlign", ("from the same maps,", "14 x 14")),
        "own head": Box(2, 2, "learned", f"{name} head", ("convolutions",)),
        "output": Box(3, 2, "learned", f"{name} logits", (output,)),
        "detections": Box(4, 2, "data", "detections", ("boxes, labels, scores", finish)),
        "losses": Box(3, 3, "loss", "losses", (f"RPN, class, box, {name}",)),
    }
    arrows = (
        Arrow("sample", "align again", training=True, shift=0),
        Arrow("select", "align again", shift=16),
        Arrow("align again", "own head"),
        Arrow("own head", "output"),
        Arrow("output", "detections"),
        Arrow("output", "losses", training=True),
    )
    return boxes, arrows


MASK, MASK_ARROWS = third_stage("mask", "R x C x 28 x 28", "masks: own class's")
KEYPOINT, KEYPOINT_ARROWS = third_stage("keypoint", "R x J x 56 x 56", "keypoints: the peaks")
DENSE_POSE, DENSE_POSE_ARROWS = third_stage("dense pose", "R x 77 x 112 x 112", "part, U, V of each pixel")
BOX_LOSSES = Box(3, 2, "loss", "losses", ("RPN, class, box",))
DETECTIONS = Box(4, 2, "data", "detections", ("boxes, labels, scores",))
TO_RESULTS = (Arrow("predictions", "losses", training=True), Arrow("select", "detections"))

PICTURES = {
    "rpn": Picture(
        "RPN: images, backbone, pyramid, RPN, the best anchors as proposals",
        {
            "images": IMAGES,
            "body": BODY,
            "pyramid": PYRAMID,
            "rpn": RPN,
            "propose": PROPOSE,
            "truth": Box(2, 1, "data", "truth", ("boxes",)),
            "sample": Box(3, 1, "function", "sample_anchors", ("256 an image,", "at most half positive")),
            "losses": Box(3, 2, "loss", "rpn_losses", ("objectness, box",)),
            "proposals": Box(4, 1, "data", "proposals", ("boxes and scores", "of “object”")),
        },
        (
            *WITH_RPN,
            Arrow("rpn", "sample", training=True),
            Arrow("truth", "sample", training=True),
            Arrow("sample", "losses", training=True),
            Arrow("propose", "proposals"),
        ),
    ),
    "fast_rcnn": Picture(
        "Fast R-CNN: proposals from a file, RoIAlign, box head, detections",
        {
            "images": IMAGES,
            "body": BODY,
            "pyramid": PYRAMID,
            "propose": Box(4, 0, "data", "proposals", ("from a file,", "B x K x 4")),
            **SECOND_STAGE,
            "losses": Box(3, 2, "loss", "losses", ("class, box",)),
            "detections": DETECTIONS,
        },
        (*TRUNK, *SECOND_STAGE_ARROWS, *TO_RESULTS),
    ),
    "faster_rcnn": Picture(
        "Faster R-CNN: RPN, RoIAlign, box head, detections",
        {**FASTER, "losses": BOX_LOSSES, "detections": DETECTIONS},
        (*WITH_RPN, *SECOND_STAGE_ARROWS, *TO_RESULTS),
    ),
    "mask_rcnn": Picture(
        "Mask R-CNN: Faster R-CNN, then masks of what was found",
        {**FASTER, **MASK},
        (*WITH_RPN, *SECOND_STAGE_ARROWS, *MASK_ARROWS),
    ),
    "mask_x": Picture(
        "Mask^X R-CNN: Mask R-CNN, whose last layer is predicted for each class from the weights that detect it",
        {
            **FASTER,
            **MASK,
            "truth": Box(0, 2, "data", "truth", ("boxes and labels;", "masks of some classes")),
            "output": Box(3, 2, "learned", "1x1 convolution", ("R x C x 28 x 28, plus one", "layer's mask for all")),
            "weights": Box(2, 3, "data", "class weights", ("of its logit and deltas", "C x 5,120, no gradient")),
            "transfer": Box(3, 3, "learned", "transfer function", ("two layers:", "kernels C x 256")),
            "losses": Box(4, 3, "loss", "losses", ("RPN, class, box; mask", "of classes with masks")),
        },
        (
            *WITH_RPN,
            *SECOND_STAGE_ARROWS,
            *MASK_ARROWS[:-1],
            Arrow("weights", "transfer"),
            Arrow("transfer", "output"),
            Arrow("output", "losses", training=True, shift=20),
        ),
    ),
    "dense_pose": Picture(
        "DensePose R-CNN: Faster R-CNN, then maps of the parts of the body and of their coordinates",
        {
            **FASTER,
            **DENSE_POSE,
            "truth": Box(0, 2, "data", "truth", ("boxes, labels; points:", "part, U, V; coarse parts")),
            "align again": Box(1, 2, "function", "RoIAlign", ("from the decoder's map,", "28 x 28")),
            "decoder": Box(1, 3, "learned", "decoder", ("P2 to P5 in one map", "of stride 4")),
            "losses": Box(3, 3, "loss", "losses", ("RPN, class, box; coarse,", "part, U, V")),
        },
        (*WITH_RPN, *SECOND_STAGE_ARROWS, *DENSE_POSE_ARROWS, Arrow("decoder", "align again")),
    ),
    "interactnet": Picture(
        "InteractNet: Faster R-CNN, then what each person does, where its object is, and which object that is",
        {
            **FASTER,
            "truth": Box(0, 2, "data", "truth", ("boxes, labels, and who", "does what with what")),
            "align again": Box(1, 2, "function", "RoIAlign", ("from the same maps,", "7 x 7")),
            "human": Box(2, 2, "learned", "human-centric head", ("verbs  R x A,", "places  R x A x 4")),
            "choose": Box(3, 2, "function", "best_triples", ("each person and verb: the", "object that fits best")),
            "detections": Box(4, 2, "data", "detections", ("boxes, labels, scores,", "interactions")),
            "pair": Box(2, 3, "learned", "pair head", ("as an object: verbs  R x A",)),
            "losses": Box(3, 3, "loss", "losses", ("RPN, class, box; verbs,", "places, pairs")),
        },
        (
            *WITH_RPN,
            *SECOND_STAGE_ARROWS,
            Arrow("sample", "align again", training=True, shift=0),
            Arrow("select", "align again", shift=16),
            Arrow("align again", "human"),
            Arrow("align again", "pair"),
            Arrow("human", "choose"),
            Arrow("pair", "choose", shift=-10),
            Arrow("choose", "detections"),
            Arrow("pair", "losses", training=True, shift=8),
        ),
    ),
    "keypoint_rcnn": Picture(
        "Keypoint R-CNN: Faster R-CNN, then heatmaps of what was found",
        {**FASTER, **KEYPOINT},
        (*WITH_RPN, *SECOND_STAGE_ARROWS, *KEYPOINT_ARROWS),
    ),
    "non_local": Picture(
        "Non-local block: theta, phi and g of a map, attention over all positions, added to the map",
        {
            "images": Box(1, 0, "data", "images", ("B x 3 x H x W",)),
            "early": Box(2, 0, "learned", "stem to res3", ("residual blocks",)),
            "res4": Box(3, 0, "learned", "res4", ("all residual blocks", "but the last")),
            "map": Box(4, 0, "data", "map", ("stride 16, C channels,", "N positions")),
            "theta": Box(1, 1, "learned", "theta", ("1 x 1, C to C / 2",)),
            "phi": Box(2, 1, "learned", "phi", ("1 x 1, C to C / 2,", "2 x 2 max pooling")),
            "g": Box(3, 1, "learned", "g", ("1 x 1, C to C / 2,", "2 x 2 max pooling")),
            "attention": Box(2, 2, "function", "attention", ("softmax of theta . phi,", "weighted sum of g")),
            "out": Box(3, 2, "learned", "output, norm", ("1 x 1, C / 2 to C;", "its scale starts at 0")),
            "sum": Box(4, 2, "function", "sum", ("of the map and", "the output")),
            "last": Box(4, 3, "learned", "res4", ("the last residual block",)),
        },
        (
            Arrow("images", "early"),
            Arrow("early", "res4"),
            Arrow("res4", "map"),
            Arrow("map", "theta"),
            Arrow("map", "phi"),
            Arrow("map", "g"),
            Arrow("theta", "attention", shift=-16),
            Arrow("phi", "attention"),
            Arrow("g", "attention", shift=16),
            Arrow("attention", "out"),
            Arrow("out", "sum"),
            Arrow("map", "sum"),
            Arrow("sum", "last"),
        ),
    ),
    "retinanet": Picture(
        "RetinaNet: backbone, pyramid, two towers over every anchor, detections",
        {
            "images": IMAGES,
            "body": Box(1, 0, "learned", "backbone", ("maps of stride 8 to 32",)),
            "pyramid": Box(2, 0, "learned", "feature pyramid", ("P3 to P7, 256 channels",)),
            "towers": Box(3, 0, "learned", "two towers", ("four convolutions each,", "one pair for all levels")),
            "output": Box(4, 0, "learned", "two convolutions", ("class logits  B x A x C", "box deltas  B x A x 4")),
            "truth": Box(1, 1, "data", "truth", ("boxes and labels",)),
            "assign": Box(2, 1, "function", "assign", ("each anchor: a class,", "background, or unused")),
            "losses": Box(3, 1, "loss", "losses", ("focal: all anchors", "box: the positives")),
            "select": Box(4, 1, "function", "select_instances", ("best of each level,", "NMS a class, best 100")),
            "detections": Box(4, 2, "data", "detections", ("boxes, labels, scores",)),
        },
        (
            *TRUNK,
            Arrow("pyramid", "towers"),
            Arrow("towers", "output"),
            Arrow("output", "losses", training=True, shift=-20),
            Arrow("truth", "assign", training=True),
            Arrow("assign", "losses", training=True),
            Arrow("output", "select"),
            Arrow("select", "detections"),
        ),
    ),
    "rfcn": Picture(
        "R-FCN: score maps for each cell of a region, pooled and averaged",
        {
            "images": IMAGES,
            "body": Box(1, 0, "learned", "res1 to res4", ("a map of stride 16",)),
            "rpn": Box(2, 0, "learned", "RPN", ("A anchors:", "logits, deltas")),
            "propose": Box(3, 0, "function", "propose", ("the best, NMS", "B x K x 4")),
            "sample": Box(4, 0, "function", "sample_rois", ("proposals and truth:", "300 RoIs an image")),
            "last": Box(1, 1, "learned", "res5, dilated", ("stride 16 still", "then 1x1 to 1,024")),
            "maps": Box(2, 1, "learned", "score maps", ("7 x 7 x (C+1) channels", "7 x 7 x 4 for boxes")),
            "pool": Box(3, 1, "function", "ps_roi_pool", ("cell i, j of a region", "from maps i, j")),
            "vote": Box(4, 1, "function", "vote", ("mean of the 49 cells:", "class logits, box deltas")),
            "losses": Box(2, 2, "loss", "losses", ("RPN; class and box", "of the 128 hardest")),
            "detections": Box(3, 2, "data", "detections", ("boxes, labels, scores",)),
            "select": Box(4, 2, "function", "select_instances", ("threshold, NMS a class,", "the best 100")),
        },
        (
            Arrow("images", "body"),
            Arrow("body", "rpn"),
            Arrow("rpn", "propose"),
            Arrow("propose", "sample", training=True),
            Arrow("body", "last"),
            Arrow("last", "maps"),
            Arrow("maps", "pool"),
            Arrow("propose", "pool", shift=-16),
            Arrow("sample", "pool", training=True, shift=16),
            Arrow("pool", "vote"),
            Arrow("vote", "losses", training=True, shift=-16),
            Arrow("vote", "select"),
            Arrow("select", "detections"),
        ),
    ),
    "data_distillation": Picture(
        "Data Distillation: a teacher's detections of many views become the labels of a student",
        {
            "unlabelled": Box(0, 0, "data", "unlabelled images"),
            "views": Box(1, 0, "function", "views", ("nine scales,", "plain and mirrored")),
            "teacher": Box(2, 0, "learned", "teacher", ("any detector",)),
            "join": Box(3, 0, "function", "joined", ("NMS, voting;", "masks, points averaged")),
            "detections": Box(4, 0, "data", "detections", ("with scores",)),
            "labelled": Box(0, 1, "data", "labelled set"),
            "mixture": Box(1, 1, "function", "mixture", ("3 : 2", "in every batch")),
            "labels": Box(3, 1, "data", "automatic labels", ("score, source: auto",)),
            "thresholds": Box(4, 1, "function", "thresholds", ("as many an image as", "in the labelled set")),
            "student": Box(1, 2, "learned", "student", ("from ImageNet weights",)),
            "losses": Box(2, 2, "loss", "losses", ("of the same detector,", "unchanged")),
        },
        (
            Arrow("unlabelled", "views"),
            Arrow("views", "teacher"),
            Arrow("teacher", "join"),
            Arrow("join", "detections"),
            Arrow("detections", "thresholds"),
            Arrow("thresholds", "labels"),
            Arrow("labels", "mixture", training=True),
            Arrow("labelled", "mixture", training=True),
            Arrow("mixture", "student", training=True),
            Arrow("student", "losses", training=True),
        ),
    ),
}


def main() -> None:
    for name, picture in PICTURES.items():
        Path(__file__).with_name(f"{name}.svg").write_text(svg(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
