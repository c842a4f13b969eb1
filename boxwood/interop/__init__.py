"""Files of other programs: Detectron's configurations, weights of Detectron, detectron2, torchvision and Caffe, the model zoo."""
