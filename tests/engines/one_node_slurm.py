"""A Slurm of one node in a temporary folder, with accounting, without systemd and cgroups.

    with one_node_slurm() as environment:
        subprocess.run(["srun", "hostname"], env=environment, check=True)

Debian's packages slurm-wlm, slurmdbd, munge and mariadb-server have all daemons. They run as root,
since slurmd starts the tasks of any user, and listen on this machine alone.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

BINARIES = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch")
PATHS = f"{os.environ['PATH']}:/usr/sbin:/sbin"
SECONDS = 60.0
"""Longest wait for a daemon to answer, or to end."""
CPUS = 2
"""CPUs that the node has for Slurm, whatever the machine has."""

SLURM = """
ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge/socket
JobAcctGatherType=jobacct_gather/linux
JobRequeue=1
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
NodeName={host} Gres=gpu:2 NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=main Nodes={host} Default=YES State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={host} State=UP PriorityTier=2
"""
GPUS = """
Name=gpu File=/dev/zero
Name=gpu File=/dev/null
"""
"""Two devices that Slurm deals out as if they were GPUs."""
ACCOUNTING = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
PidFile={folder}/slurmdbd.pid
"""
DATABASE = """
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER slurm@localhost IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct_db.* TO slurm@localhost;
"""


def reason_without() -> str:
    """Say why no Slurm can be started here; an empty text if it can."""
    if os.geteuid() != 0:
        return "the daemons of Slurm run as root"
    absent = [name for name in BINARIES if shutil.which(name, path=PATHS) is None]
    packages = "slurm-wlm slurmdbd munge mariadb-server"
    return f"{', '.join(absent)} absent; Debian's packages are {packages}" if absent else ""


@contextmanager
def one_node_slurm() -> Iterator[dict[str, str]]:
    """Start all daemons and yield the environment of Slurm's commands; end all at the exit."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        values = _write_settings(folder)
        environment = {**os.environ, "PATH": PATHS, "SLURM_CONF": str(folder / "slurm.conf")}

        def start(name: str, words: Sequence[str]) -> None:
            with (folder / f"{name}.log").open("w") as log:
                streams = {"stdout": log, "stderr": log}
                process = subprocess.Popen([name, *words], env=environment, **streams)
            stack.callback(_end, process)

        munge = [f"--{key}={folder}/munge/{key}" for key in ("socket", "pid-file", "log-file")]
        key = f"--key-file={folder}/munge/key"
        start("munged", ("--foreground", "--force", key, f"--seed-file={folder}/seed", *munge))
        start("mariadbd", _database_words(folder, environment, values["database"]))
        _wait_for_port(values["database"])
        start("slurmdbd", ("-D",))
        _wait_for_port(values["accounting"])
        words = ["sacctmgr", "--immediate", "add", "cluster", "sandbox"]
        _until(lambda: "sandbox" in _output(words, environment), "the accounting")
        start("slurmctld", ("-D",))
        _wait_for_port(values["controller"])
        start("slurmd", ("-D",))
        state = ("sinfo", "--noheader", "--format=%T")
        _until(lambda: _output(state, environment).strip() == "idle", "an idle node")
        stack.callback(_end_jobs, environment)
        yield environment


def _end_jobs(environment: Mapping[str, str]) -> None:
    """Cancel all jobs: their processes would outlive the daemons."""
    subprocess.run(("scancel", "--user=root"), env=environment, check=True)
    _until(lambda: not _output(("squeue", "--noheader"), environment).strip(), "the last job")


def _write_settings(folder: Path) -> Mapping[str, object]:
    folder.chmod(0o755)  # sbatch copies scripts there for users
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    (folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
    (folder / "munge" / "key").chmod(0o400)
    ports = dict(zip(("controller", "node", "accounting", "database"), _free_ports(4), strict=True))
    values = {
        **ports,
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "cpus": CPUS,
        "password": secrets.token_hex(16),
    }
    files = {"slurm.conf": SLURM, "gres.conf": GPUS}
    files |= {"slurmdbd.conf": ACCOUNTING, "init.sql": DATABASE}
    for name, text in files.items():
        (folder / name).write_text(text.format(**values))
        (folder / name).chmod(0o600 if "{password}" in text else 0o644)
    return values


def _database_words(folder: Path, environment: Mapping[str, str], port: object) -> tuple[str, ...]:
    """Make an empty database in the folder and return the options that start its server."""
    data = f"--datadir={folder}/database"
    words = ("mariadb-install-db", "--no-defaults", "--user=root", data)
    subprocess.run(words, env=environment, check=True, capture_output=True)
    listens = (f"--socket={folder}/database.socket", "--bind-address=127.0.0.1", f"--port={port}")
    return ("--no-defaults", "--user=root", data, f"--init-file={folder}/init.sql", *listens)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _wait_for_port(port: object) -> None:
    def answers() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    _until(answers, f"port {port}")


def _output(words: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def _until(is_so: Callable[[], bool], name: str) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{name} did not answer within {SECONDS:g} s")
        time.sleep(0.2)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
