"""Print the lowest version of each dependency that pyproject.toml allows, as constraints for pip (make test-lowest)."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = {name: requirements for name, requirements in project["optional-dependencies"].items() if name != "dev"}
for requirement in sum(extras.values(), project["dependencies"]):
    print(requirement.replace(">=", "=="))
