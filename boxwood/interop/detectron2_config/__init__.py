"""Reads detectron2's ``config.yaml``, which its trainer writes beside the weights, as a configuration of Boxwood.

    config.yaml -> values (192 keys, checked) -> RunConfig, order of the colour channels, notes

Every key is carried over; or its value is what Boxwood always does; or it has no effect on the network; or it is a rule of training
that Boxwood does not have, which is noted; or it is refused by name.
"""

from boxwood.interop.detectron2_config.convert import Detectron2Config, find_config, read_config

__all__ = ["Detectron2Config", "find_config", "read_config"]
