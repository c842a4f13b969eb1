"""Detectron's own configuration files, read and turned into Boxwood's.

    OLD.yaml, or the cfg inside a .pkl -> values (229 keys, checked) -> RunConfig and notes

Every key is carried over, or says what Boxwood does anyway, or is of no consequence and named as ignored, or cannot be honoured;
then nothing is made until it is left out by name.
"""

from boxwood.interop.detectron_config.convert import Converted, from_detectron, import_yaml
from boxwood.interop.detectron_config.pickled import from_embedded, parse_embedded
from boxwood.interop.detectron_config.values import Note

__all__ = ["Converted", "Note", "from_detectron", "from_embedded", "import_yaml", "parse_embedded"]
