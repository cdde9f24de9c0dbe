"""Compare a built wheel with the tree: nothing forgotten, nothing that does not belong.

Usage: ``python tests/compare_wheel.py FOLDER_WITH_WHEEL``.
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "methods", "tasks", "leaderboards")
PACKED = (
    "py.typed",
    "steelyard.mplstyle",
    "page.html",
    "parts.html",
    "page.css",
    "page.js",
    "RULES.md",
)
"""Files in the packages beside .py and .yaml."""


def main() -> None:
    """Exit with a message when the wheel and the tree differ."""
    (wheel,) = Path(sys.argv[1]).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"steelyard/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml") or path.name in PACKED
    }
    if packed != expected:
        sys.exit(f"missing: {sorted(expected - packed)}; unexpected: {sorted(packed - expected)}")
    print(f"{wheel.name}: {len(packed)} files, all of the tree and nothing else")


if __name__ == "__main__":
    main()
