"""`python -m deploy.reference`: writes the generated pages of docs/, or with `--check` says which are stale."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.reference.pages import pages

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> int:
    """Write the pages; with `--check` write nothing and return 1 if one differs from what is committed."""
    check = "--check" in sys.argv[1:]
    stale = {name: text for name, text in pages().items() if not _same(DOCS / name, text)}
    for name, text in stale.items():
        if not check:
            (DOCS / name).write_text(text)
        print(f"{'stale' if check else 'written'}: docs/{name}", file=sys.stderr)
    return 1 if check and stale else 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
