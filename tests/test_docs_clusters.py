"""The page on clusters: its script and its manifests are well formed, their commands parse, its table is what its code computes."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import yaml

from tests.test_docs import ROOT, blocks, boxwood_arguments, check_boxwood

PAGE = ROOT / "docs" / "clusters.md"


def contents(language: str) -> list[str]:
    return [content for _, kind, content in blocks(PAGE) if kind == language]


def check_torchrun(words: list[str]) -> None:
    arguments = boxwood_arguments(words)
    assert arguments is not None and "--resume" in arguments
    check_boxwood(arguments, shlex.join(words))


def test_the_script_is_bash_and_its_command_parses() -> None:
    (script,) = contents("bash")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (command,) = re.findall(r"(torchrun (?:.*\\\n)+.*)", script)
    check_torchrun(shlex.split(command.replace("\\\n", " ")))


def test_the_manifests_are_yaml_and_their_command_parses() -> None:
    (content,) = contents("yaml")
    service, job = yaml.safe_load_all(content)
    assert (service["kind"], job["kind"], job["spec"]["completionMode"]) == ("Service", "Job", "Indexed")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["subdomain"] == service["metadata"]["name"] and f"--nnodes={job['spec']['completions']}" in container["args"]
    check_torchrun([*container["command"], *container["args"]])


def test_the_table_is_what_the_code_computes() -> None:
    (code,) = contents("python")
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102  (code of this repository)
    assert [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \D.* \| \d", line)] == names["table"]
    assert abs(90_000 * 16 / 61.7 / 3600 - float(names["table"][0].split("|")[4])) < 0.06
