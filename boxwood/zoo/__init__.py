"""The model zoo: what Detectron and torchvision published, and how it comes to this machine. It imports nothing large."""
