"""Workers on Slurm, through submitit: an array of jobs, each begun again until the plan is done.

launch = Slurm().start(Path("plan.json"), Path("runs"), Resources(workers=8, gpus=1, minutes=240))

Shortly before the time limit Slurm signals a job, and before preemption where the site has
``preempt_send_user_signal``. The worker then leaves and submitit requeues the job. A job whose
tasks are killed is not requeued by Slurm: other workers take its cell once the lease has expired.
One that was cancelled stays ended.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from steelyard.harness.core.environment import require_package
from steelyard.harness.core.errors import UserError
from steelyard.harness.engines import LOGS, Launch, Resources, worker_command

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

MOST_REQUEUES = 100
"""Requeues of a job after its time limit: a run without checkpoints would never end."""
MOST_DEATHS = 3
"""Worker processes that may die in a job, by memory for example, before it fails."""
SIGNAL_SECONDS = 120
"""Time between Slurm's signal and the end of a job, half its limit at most, unless the site has
``signal_delay_s``. Slurm may be a minute early."""
LOOK_SECONDS = 30.0
"""Least time between two questions to Slurm, whose controller serves all users."""
LEAVE_FRACTION = 0.7
"""Of that time that a worker has to leave by itself, before the job is requeued regardless."""
OPTIONS = {
    "time": "--minutes",
    "mem": "--memory",
    "cpus_per_task": "--cpus",
    "gpus_per_node": "--gpus",
}
"""Options that have the place of a parameter of submitit."""


class Slurm:
    """Engine of Slurm; ``local`` runs the same jobs in processes of this machine, for tests."""

    def __init__(self, cluster: Literal["slurm", "local"] = "slurm") -> None:
        self.cluster = cluster
        self._states: Mapping[str, str] = {}
        self._asked = -LOOK_SECONDS

    def start(self, plan: Path, runs: Path, resources: Resources) -> Launch:
        """Submit one array of workers.

        Raises:
            UserError: no time limit or a site value that is an option; Slurm refuses the job.
        """
        require_package("submitit", "slurm", "--on slurm")
        import submitit
        from submitit.core.utils import FailedJobError

        if resources.minutes is None:
            raise UserError("Slurm ends jobs by time: give --minutes, for example --minutes 240.")
        site = site_parameters(resources.site)
        most = min(SIGNAL_SECONDS, 30 * resources.minutes)
        if not isinstance(delay := site.setdefault("slurm_signal_delay_s", most), int):
            raise UserError(f"--site signal_delay_s={delay}: give whole seconds.")
        options = {"slurm_max_num_timeout": MOST_REQUEUES}
        try:
            executor = submitit.AutoExecutor(runs / LOGS, cluster=self.cluster, **options)
            executor.update_parameters(
                name="steelyard",
                timeout_min=resources.minutes,
                cpus_per_task=resources.cpus,
                gpus_per_node=resources.gpus or None,
                mem_gb=resources.memory_gb,
                # Since Slurm 22.05 srun does not take it from sbatch.
                slurm_srun_args=[f"--cpus-per-task={resources.cpus}"],
                **site,
            )
            worker = SlurmWorker(worker_command(plan, runs, resources), delay * LEAVE_FRACTION)
            with executor.batch():
                jobs = [executor.submit(worker) for _ in range(resources.workers)]
        except FailedJobError as error:
            raise UserError(f"Slurm refused the job: {error}") from error
        except RuntimeError as error:  # no srun
            raise UserError(f"--on slurm: {error}") from error
        return Launch("slurm", tuple(job.job_id for job in jobs))

    def states(self, launch: Launch) -> Mapping[str, str]:
        """Return the states that the accounting knows; without one, ended jobs are ``FINISHED``.

        Slurm's controller is asked at most once in ``LOOK_SECONDS``.
        """
        if time.monotonic() - self._asked > LOOK_SECONDS:
            self._states, self._asked = _states(launch.ids), time.monotonic()
        return self._states

    def stop(self, launch: Launch) -> None:
        """Cancel the jobs; the workers leave and are not begun again."""
        subprocess.run(("scancel", *_arrays(launch.ids)), check=True)


def _arrays(ids: Sequence[str]) -> list[str]:
    return sorted({name.partition("_")[0] for name in ids})


def _states(ids: Sequence[str]) -> dict[str, str]:
    words = ("--noheader", f"--jobs={','.join(_arrays(ids))}")
    accounting = ("sacct", *words, "--allocations", "--parsable2", "--format=JobID,State")
    queue = ("squeue", *words, "--array", "--format=%i|%T")
    outputs = [
        subprocess.run(words, capture_output=True, text=True) for words in (accounting, queue)
    ]
    # The controller forgets jobs some minutes after their end.
    is_known = outputs[1].returncode == 0 or "Invalid job id" in outputs[1].stderr
    states = dict.fromkeys(ids, "FINISHED" if is_known else "UNKNOWN")
    for output in outputs:
        rows = (line.split("|") for line in output.stdout.splitlines())
        states.update({row[0]: row[1] for row in rows if row[0] in states})
    return states


def site_parameters(site: Mapping[str, str]) -> dict[str, Any]:
    """Return site values as parameters of submitit; further ones are passed to sbatch as they are.

    ``setup`` has shell commands, one a line. An empty value is a flag, as in ``exclusive=``.

    Raises:
        UserError: a value that has an option of its own.
    """
    from submitit import SlurmExecutor

    known = SlurmExecutor._valid_parameters()
    parameters: dict[str, Any] = {}
    further: dict[str, Any] = {}
    for key, text in site.items():
        name = key.replace("-", "_")
        if name in OPTIONS:
            raise UserError(f"--site {key}={text}: give {OPTIONS[name]} in its place.")
        value: Any = int(text) if text.isdigit() else text or True
        if name not in known:
            further[key] = value
        else:
            parameters[f"slurm_{name}"] = text.splitlines() if name == "setup" else value
    return {**parameters, "slurm_additional_parameters": further}


class SlurmWorker:
    """Job that runs a worker, which submitit pickles and calls on the cluster."""

    def __init__(self, command: Sequence[str], leave_seconds: float) -> None:
        self.command, self.leave_seconds = tuple(command), leave_seconds
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run a worker to its end and exit with its code; one that dies is replaced."""
        for _ in range(MOST_DEATHS):
            # Slurm signals all processes of a job: the worker inherits that this one is blocked.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
            self.process = subprocess.Popen(self.command)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
            if (code := self.process.wait()) >= 0:
                break
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def checkpoint(self) -> "DelayedSubmission":
        """Let the worker leave, and return what the requeued job runs.

        submitit calls this in its handler of the signal, while the process waits for the worker.
        """
        from submitit.helpers import DelayedSubmission

        end = time.monotonic() + self.leave_seconds
        if self.process is not None:
            self.process.terminate()
            # ``wait`` cannot be called in its own middle.
            with suppress(ChildProcessError):
                options = os.WEXITED | os.WNOHANG | os.WNOWAIT
                while time.monotonic() < end and not os.waitid(os.P_PID, self.process.pid, options):
                    time.sleep(0.1)
        return DelayedSubmission(SlurmWorker(self.command, self.leave_seconds))
