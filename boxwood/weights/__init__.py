"""Weights on disk: Boxwood's own file, and what differs when weights do not fit a model."""

from boxwood.weights.file import SavedWeights, load_state, read_weights, restore_model, save_weights

__all__ = ["SavedWeights", "load_state", "read_weights", "restore_model", "save_weights"]
