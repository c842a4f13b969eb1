"""Inference: the predictor, predictions of pictures, folders and videos, evaluation on a data set."""
