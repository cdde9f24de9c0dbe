"""The list of planted faults fits the source; ``nox -s mutants`` plants them."""

import ast
from pathlib import Path

from mutants.plant import ROOT, faults

LEAST = 60


def test_every_fault_has_one_place_in_the_source_and_tests() -> None:
    rows = list(faults())
    assert len(rows) >= LEAST
    for fault in rows:
        ast.parse(fault.planted())  # one place, and still Python
        assert fault.old != fault.new
        assert all((ROOT / test).exists() for test in fault.tests), fault
    assert all(Path(fault.file).suffix == ".py" for fault in rows)
