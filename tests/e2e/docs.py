"""Code blocks of the documents: found, and made runnable against a deployment under test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Return page and line, as test ids show them."""
        return f"{self.page.name}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in the given languages, in order."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match["language"], match["text"]))
    return [block for block in found if block.language in languages]


def make_targets(text: str) -> list[str]:
    """Return the targets of the `make` lines of a shell block."""
    return re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)


def commands(text: str) -> list[str]:
    """Return the lines of a shell block that call `tollway`, comments and continuations resolved."""
    joined = text.replace("\\\n", " ")
    return [line.split(" #")[0].strip() for line in joined.splitlines() if line.startswith("tollway ")]
