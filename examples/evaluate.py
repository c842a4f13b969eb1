"""Evaluate a detector in your program: AP, the classes with the lowest AP, the images with the most detections, the report.

python examples/evaluate.py runs/mine
python examples/evaluate.py runs/mine --annotations test.json --images photos --report report.html
"""

from __future__ import annotations

import argparse

import boxwood
from boxwood.data import CocoConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run, a .safetensors file, or a name of the zoo")
    parser.add_argument("--annotations", help="the ground truth of other images than the run's val set")
    parser.add_argument("--images", help="their folder")
    parser.add_argument("--score", type=float, default=0.5, help="detections below are not counted (0.5)")
    parser.add_argument("--report", help="where to write the report, report.html")
    arguments = parser.parse_args()

    data = None if arguments.annotations is None else CocoConfig(annotations=arguments.annotations, images=arguments.images)
    result = boxwood.evaluate(arguments.run, data)  # a model in memory can be measured too: evaluate(model, data)
    print(result.table())

    classes = {name: row for name, row in result.metrics["per_class"].items() if row["count"]}
    for name, row in sorted(classes.items(), key=lambda item: item[1]["bbox"])[:3]:
        print(f"lowest AP: {name} {row['bbox']:.3f} of {row['count']} instances")
    # The detections are COCO results by image id: {"image_id", "category_id", "bbox", "score", ...}.
    counts = {id_: sum(record["score"] >= arguments.score for record in records) for id_, records in result.detections.items()}
    for image_id in sorted(counts, key=lambda id_: -counts[id_])[:3]:
        print(f"image {image_id}: {counts[image_id]} detections")
    if arguments.report is not None:
        result.report(arguments.report)  # result.save(folder) writes all files of boxwood eval


if __name__ == "__main__":
    main()
