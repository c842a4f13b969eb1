"""The classes that published weights were trained for: those of COCO and of PASCAL VOC."""

from __future__ import annotations

from boxwood.errors import UserError
from boxwood.structures import Categories, KeypointFacts

__all__ = ["COCO", "PERSON", "VOC", "published_categories"]

_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter, bench,
bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
vase, scissors, teddy bear, hair drier, toothbrush
"""
_VOC_NAMES = """
aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person, pottedplant, sheep,
sofa, train, tvmonitor
"""
_KEYPOINTS = """
nose, left_eye, right_eye, left_ear, right_ear, left_shoulder, right_shoulder, left_elbow, right_elbow, left_wrist, right_wrist,
left_hip, right_hip, left_knee, right_knee, left_ankle, right_ankle
"""


def _list(names: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in names.split(","))


COCO = Categories(tuple(number for number in range(1, 91) if number not in _GAPS), _list(_NAMES))
"""The 80 classes of COCO's boxes and masks; ten numbers between 1 and 90 are not used."""

VOC = Categories(tuple(range(1, 21)), _list(_VOC_NAMES))
"""The 20 classes of PASCAL VOC."""

PERSON = Categories(
    (1,),
    ("person",),
    KeypointFacts(
        names=_list(_KEYPOINTS),
        flip=(0, *(i + 1 if i % 2 else i - 1 for i in range(1, 17))),
        skeleton=(
            *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
            *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
        ),
        sigmas=tuple(sigma / 1000 for sigma in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)),
    ),
)
"""COCO's one class with keypoints, of which it has 17."""


def published_categories(count: int, where: str) -> Categories:
    """The classes of published weights by their number. Raises `UserError` where none is known to have so many.

    >>> published_categories(80, "x.pkl").names[:3]
    ('person', 'bicycle', 'car')
    """
    for known in (COCO, VOC, PERSON):
        if len(known) == count:
            return known
    raise UserError(f"{where}: has {count} classes, which are neither COCO's nor VOC's; name a COCO file of them with --categories")
