"""`boxwood config schema`: the JSON Schema of configuration files."""

from __future__ import annotations

from typing import Any

from boxwood.run_config import RunConfig

__all__ = ["config_schema"]


def config_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, with which an editor completes keys; ``base`` is a key too, and no key is required,
    since the base has those that the file leaves out."""
    schema = RunConfig.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "The recipe or file that this one changes."}
    schema.pop("required", None)
    without_defaults: dict[str, Any] = _without_defaults(schema)
    return without_defaults


def _without_defaults(node: Any) -> Any:
    """Pydantic writes the default of a component without its kind; no default is better than a wrong one."""
    if isinstance(node, dict):
        wrong = {"default"} if isinstance(node.get("default"), dict | list) else set()
        return {key: _without_defaults(value) for key, value in node.items() if key not in wrong}
    return [_without_defaults(item) for item in node] if isinstance(node, list) else node
