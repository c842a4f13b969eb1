"""Data Distillation (Radosavovic, Dollár, Girshick, Gkioxari, He: https://arxiv.org/abs/1712.04440, 2018): a detector labels
pictures, and another one learns from these labels too.

    label.py       a teacher's detections of several views of each picture become a COCO file
    thresholds.py  which detections become labels: as many an image as people drew
    compare.py     teacher, student, teacher trained as long, oracle

The student is an ordinary training on a mixture (`boxwood.data.mixture`) with a ratio in every batch.
"""
