"""Training: the loop, optimizer and learning rate, checkpoints, the log, validation."""

from boxwood.training.divergence import TrainingDiverged
from boxwood.training.loop import train
from boxwood.training.optimizer import build_optimizer, learning_rate

__all__ = ["TrainingDiverged", "build_optimizer", "learning_rate", "train"]
