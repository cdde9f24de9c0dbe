"""The machine that a run is on: its name and the memory in use."""

from pathlib import Path


def reset_peak(device: str) -> None:
    """Start measuring peak memory anew."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # not Linux, or not permitted: the peak is then that of the process so far


def peak_bytes(device: str) -> int:
    """Peak memory of the device, or of the process on a CPU."""
    import resource

    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: str) -> str:
    """The name of a GPU; of a CPU its architecture and the threads in use."""
    import platform

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} thread(s))"
