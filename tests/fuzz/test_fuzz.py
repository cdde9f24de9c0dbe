"""Changed files and odd words end with 0, 1 or 2 and one line; ``nox -s fuzz`` tries 10,000."""

from pathlib import Path

from fuzz.session import Fuzzer

INPUTS = 500


def test_five_hundred_inputs_have_no_fault(own_cache: Path, tmp_path: Path) -> None:
    fuzzer = Fuzzer(tmp_path / "fuzz")
    faults = [result for result in map(fuzzer.run, range(INPUTS)) if result.fault]
    assert not faults, faults
