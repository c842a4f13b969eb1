"""Files of other formats, read whole or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from boxwood.errors import UserError

__all__ = ["read_json"]


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises `UserError` where it cannot be read or is none."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({(error.strerror or '').lower()}); copy it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({' '.join(str(error).split())[:100]}); copy it again") from None
