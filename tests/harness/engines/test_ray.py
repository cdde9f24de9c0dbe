"""What the Ray engine asks of a cluster; with one: ``nox -s ray``."""

from pathlib import Path

import pytest

from steelyard.harness.core.errors import UserError
from steelyard.harness.engines import Resources
from steelyard.harness.engines.ray import Ray, _check_machine, task_options

GB = 2**30


def test_resources_are_options_of_a_task() -> None:
    resources = Resources(2, gpus=1, cpus=4, memory_gb=1.5, site={"big": "0.5"})
    assert task_options(resources) == {
        "num_gpus": 1,
        "num_cpus": 4,
        "memory": 1.5 * GB,
        "resources": {"big": 0.5},
    }
    assert "memory" not in task_options(Resources(2))


def test_site_values_are_numbers() -> None:
    with pytest.raises(UserError, match="--site partition=gpu: Ray knows amounts"):
        task_options(Resources(2, site={"partition": "gpu"}))


def test_time_limits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --minutes"):
        Ray().start(tmp_path / "plan.json", tmp_path, Resources(2, minutes=5))


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        (Resources(1, gpus=1), "GPU 1, and this machine has 0"),
        (Resources(1, cpus=4), "CPU 4, and this machine has 2"),
        (Resources(1, site={"big": "1"}), "big 1, and this machine has 0"),
        (Resources(1, memory_gb=2), "memory 2"),
    ],
)
def test_machine_that_has_too_little_is_refused(resources: Resources, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        _check_machine(task_options(resources), {"CPU": 2.0, "memory": GB})
    _check_machine(task_options(Resources(1, cpus=2, memory_gb=1)), {"CPU": 2.0, "memory": GB})
