"""A process starts alike under every terminal, launcher and setting of Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.startup import COUNTS, explain_import, start_process

START = "from steelyard.harness.core.startup import *; import sys; start_process();"


def run(script: str, shell: str = "{}", **variables: str) -> subprocess.CompletedProcess[bytes]:
    words = f"'{sys.executable}' -c \"{START} {script}\""
    environment = {**os.environ, **variables}
    return subprocess.run(
        ["bash", "-c", shell.format(words)], capture_output=True, env=environment, timeout=60
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str) -> None:
    done = run("print(chr(0x394), chr(0xdc80), 'end')", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (0, b"? ? end\n"), done.stderr


@pytest.mark.parametrize("shell", ["{} | true", "{} >&-", "{} >&- 2>&- <&-", "{} 2>&1 | head -1"])
def test_work_goes_on_when_nobody_reads(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "done"
    script = f"[print(i, flush=True) for i in range(9999)]; open('{file}', 'w').write('all')"
    done = run(script, f"set -o pipefail; {shell}")
    assert (done.returncode, file.read_text(), done.stderr) == (0, "all", b"")


def test_a_closed_output_is_not_the_next_file(tmp_path: Path) -> None:
    run(f"file = open('{tmp_path / 'file'}', 'w'); import os; os.write(1, b'printed')", "{} >&-")
    assert (tmp_path / "file").read_bytes() == b""


def test_a_full_disk_behind_the_output_is_kept_as_its_failure() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    script = "print(1, flush=True); print(2, flush=True); sys.exit(Output.failure)"
    assert b"No space" in run(script, "{} > /dev/full").stderr


@pytest.mark.parametrize("name", COUNTS)
def test_several_processes_of_a_launcher_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "4")
    with pytest.raises(UserError, match=f"{name}=4"):
        start_process()


@pytest.mark.parametrize("value", ["1", "", "x", "-1"])
def test_what_a_launcher_of_one_process_sets_has_no_effect(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE",
             "TORCHELASTIC_RUN_ID", "ACCELERATE_USE_DEEPSPEED", "OMPI_COMM_WORLD_RANK")  # fmt: skip
    for name in names:
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANKING", "other")
    start_process()
    assert not os.environ.keys() & {*names} and os.environ["RANKING"] == "other"


def test_what_is_no_number_of_threads_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"OMP_NUM_THREADS": "abc", "NUMEXPR_MAX_THREADS": "4,2", "HF_HUB_ETAG_TIMEOUT": "soon"}
    for name, value in {**wrong, "MKL_NUM_THREADS": "2"}.items():
        monkeypatch.setenv(name, value)
    start_process()
    assert os.environ["MKL_NUM_THREADS"] == "2" and not os.environ.keys() & wrong.keys()


def test_warnings_stay_warnings_here_and_in_workers() -> None:
    script = "import warnings, os; warnings.warn('old'); assert 'PYTHONWARNINGS' not in os.environ"
    done = run(f"{script}; assert not sys.warnoptions", PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stderr


def test_an_interruption_within_a_finaliser_is_not_lost(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import os, signal, time
from steelyard.harness.core.startup import start_process

class Closing:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # the handler runs here

start_process()
try:
    Closing()
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"interrupted\n", b"")


def test_dropped_docstrings_are_one_line() -> None:
    done = run("", PYTHONOPTIMIZE="2")
    assert b"unset PYTHONOPTIMIZE" in done.stderr


def test_an_import_of_torch_that_fails_is_one_line_with_its_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raised(module: str) -> Exception:
        code = compile("raise ValueError('\\nInvalid log settings: x\\nmore')", module, "exec")
        try:
            exec(code, {"__name__": module})
        except ValueError as error:
            return error
        raise AssertionError

    for name in [name for name in os.environ if "TORCH" in name]:
        monkeypatch.delenv(name)
    assert "(ValueError: Invalid log settings: x): install it" in explain_import(raised("torch"))
    monkeypatch.setenv("TORCH_LOGS", "x")
    monkeypatch.setenv("PYTORCH_JIT", "maybe")
    assert explain_import(raised("torch")).endswith("correct or unset PYTORCH_JIT, TORCH_LOGS.")
    assert not explain_import(raised("torch.nn.modules.linear"))
