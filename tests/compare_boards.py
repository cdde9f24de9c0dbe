"""Rebuild the published boards from the committed records and compare every byte.

Usage: ``python tests/compare_boards.py``, or with ``--write`` to publish anew.
"""

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from steelyard import methods
from steelyard.leaderboards import publish

ROOT = Path(__file__).parents[1] / "leaderboards"


def main() -> None:
    """Rebuild each folder of records into the published folder of the same name."""
    kinds = {name: methods.load(name).ABOUT.kind for name in methods.names()}
    write = sys.argv[1:] == ["--write"]
    for records in sorted(path for path in (ROOT / "records").iterdir() if path.is_dir()):
        published = ROOT / "published" / records.name
        with tempfile.TemporaryDirectory() as scratch:
            publish([records], Path(scratch), control="joint", kinds=kinds)
            if write:
                shutil.rmtree(published, ignore_errors=True)
                shutil.copytree(scratch, published)
            _same(Path(scratch), published)
        print(f"{records.name}: rebuilt byte for byte")


def _same(built: Path, published: Path) -> None:
    left = sorted(path.name for path in built.iterdir())
    right = sorted(path.name for path in published.iterdir())
    if left != right:
        sys.exit(f"{published}: holds {right}, a rebuild makes {left}")
    _, differ, broken = filecmp.cmpfiles(built, published, left, shallow=False)
    if differ or broken:
        sys.exit(f"{published}: a rebuild differs in {differ + broken}")


if __name__ == "__main__":
    main()
