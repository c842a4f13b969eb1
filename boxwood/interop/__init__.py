"""Other programs: Detectron's configuration files, weights of Detectron, detectron2, torchvision and Caffe, the model zoo."""
