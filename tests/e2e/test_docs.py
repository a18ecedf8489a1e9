"""Every code block of README and docs is run, or checked as far as a machine without the internet can."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.supervisor.bootstrap import example_policy
from schemas.policy import Provider
from schemas.policy_file import load_policy
from schemas.price_file import load_prices
from tests.e2e.docs import PAGES, ROOT, Block, blocks, commands, make_targets
from tests.e2e.stack import Stack, environment

SHELL = blocks("sh")
RUN = ("README.md", "backtest.md", "batches.md", "operations.md")
"""Pages whose commands are run, in this order."""
ELSEWHERE = (".internal:", "rollback 3", "key_0123456789ab", "0192f0c1-2b7e")
"""Blocks with these words name machines, versions or keys that a test has not: their options are checked instead."""


def test_every_block_has_a_language_that_is_checked() -> None:
    """No fenced block escapes these tests by its language."""
    known = {"sh", "python", "yaml", "json", ""}
    assert {block.language for block in blocks("", "sh", "python", "yaml", "json", "text", "bash", "toml")} <= known
    assert SHELL


def test_every_link_between_pages_leads_somewhere() -> None:
    """Relative links name files that exist."""
    for page in [*PAGES, *(ROOT / "docs" / "adr").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_make_target_named_exists() -> None:
    """`make` lines name targets that `make help` lists."""
    listed = subprocess.run(
        [shutil.which("make") or "make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for block in SHELL:
        for target in make_targets(block.text):
            assert re.search(rf"\b{target}\b", listed), f"{block.name}: make {target}"


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.name)
def test_yaml_is_a_policy_or_a_part_of_one(block: Block) -> None:
    """YAML blocks load as a policy, as providers of one, or as a price file."""
    document = yaml.safe_load(block.text)
    if set(document) == {"providers"}:
        for provider in document["providers"].values():
            Provider.model_validate(provider)
    elif "prices" in document:
        load_prices(block.text, block.name)
    else:
        load_policy(block.text, block.name)


def test_the_shell_and_python_blocks_run(stack: Stack, tmp_path: Path) -> None:
    """The README's tour and the pages' commands run in order in one shell, with the policy of a fresh `tollway up`."""
    stack.apply(example_policy())
    binaries = tmp_path / "bin"
    binaries.mkdir()
    shim = binaries / "tollway"
    shim.write_text(f'#!/bin/sh\nexec {stack.python} -m deploy.cli "$@"\n')
    shim.chmod(0o755)
    (tmp_path / "tour").mkdir()
    script = ["set -eu -o pipefail"]
    for block in [block for block in blocks("sh", "python") if block.page.name in RUN]:
        script += _runnable(block, stack)
    env = {
        **environment(), "PATH": f"{binaries}:{stack.python.parent}:{os.environ['PATH']}",
        "TOLLWAY_STATE": str(stack.state),
    }  # fmt: skip
    done = subprocess.run(
        ["/bin/bash", "-c", "\n".join(script)],
        cwd=tmp_path / "tour",
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " 429" in done.stdout
    assert "Decision " in done.stdout
    assert json.loads(stack.run("verify", "--json"))["ok"] is True


def _runnable(block: Block, stack: Stack) -> list[str]:
    if block.language == "python":
        return [f"python - <<'PYTHON'\n{block.text}PYTHON"]
    if any(word in block.text for word in ELSEWHERE):
        return [f"{_options_only(line)} > /dev/null" for line in commands(block.text)]
    lines = [line for line in block.text.splitlines() if not re.match(r"make |\. \.venv", line)]
    text = "\n".join(lines).replace("http://127.0.0.1:8700", str(stack.ready["ingress"][0]))
    return [f"echo '--- {block.name}'", text]


def _options_only(line: str) -> str:
    """Return the command with `--help`, after its options: unknown ones are still refused."""
    words = shlex.split(line)
    return shlex.join(words[: 3 if words[1] in ("policy", "keys", "report") else 2]) + " --help"
