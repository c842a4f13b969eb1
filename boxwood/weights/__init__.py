"""Weights on disk: Boxwood's weights file, loading it into a model, and changing its classes."""

from boxwood.weights.file import SavedWeights, load_state, read_weights, restore_model, save_weights

__all__ = ["SavedWeights", "load_state", "read_weights", "restore_model", "save_weights"]
