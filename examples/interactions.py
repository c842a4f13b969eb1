"""Who does what with what: predictions of an InteractNet as Python values, and drawn.

    python examples/interactions.py RUN photo.jpg --out photo-interactions.jpg

RUN is a run, a weights file or a name of the zoo whose network has an interaction head.
"""

import argparse
from pathlib import Path

import boxwood
from boxwood.interactions import DetectedInteractions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--score", type=float, default=0.3, help="the lowest score of an interaction that is printed")
    parser.add_argument("--out", type=Path, help="where the drawn picture goes")
    arguments = parser.parse_args()

    predictor = boxwood.load(arguments.model)
    detections = predictor(arguments.picture)
    field = detections.fields.get("interactions")
    if not isinstance(field, DetectedInteractions):
        raise SystemExit(f"{arguments.model}: its network predicts no interactions")

    for number, record in enumerate(field.records(detections.boxes, detections.size)):
        human = f"{detections.names[number]} {number}"
        for claim in sorted(record.get("interactions", ()), key=lambda claim: -claim["score"]):
            if claim["score"] < arguments.score:
                continue
            verb, target = f"{claim['verb']} ({claim['role']})", claim.get("object")
            if claim["role"] == "agent":
                print(f"{human}: {claim['verb']}, score {claim['score']:.2f}")
            elif target is None:
                print(f"{human}: {verb} nothing, score {claim['score']:.2f}")
            else:
                name = detections.class_names[field.category_ids.index(target["category_id"])]
                box = [round(side) for side in target["bbox"]]
                print(f"{human}: {verb} {name} at {box}, score {claim['score']:.2f}")
    if arguments.out:
        detections.draw(arguments.picture).save(arguments.out)


if __name__ == "__main__":
    main()
