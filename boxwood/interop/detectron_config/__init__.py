"""Converts Detectron's configuration files into Boxwood's.

    OLD.yaml, or the cfg inside a .pkl -> values (229 keys, checked) -> RunConfig and notes

Every key is carried over; or its value is what Boxwood always does; or it has no effect and is noted as ignored; or it cannot be
honoured: then the conversion fails unless the key is left out by name.
"""

from boxwood.interop.detectron_config.convert import Converted, from_detectron, import_yaml
from boxwood.interop.detectron_config.pickled import from_embedded, parse_embedded
from boxwood.interop.detectron_config.values import Note

__all__ = ["Converted", "Note", "from_detectron", "from_embedded", "import_yaml", "parse_embedded"]
