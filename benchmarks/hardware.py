"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path


def available_cores() -> int:
    """The number of cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe(cores: int) -> str:
    """One line: processor, cores and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    versions = []
    for name in ("jax", "torch", "transformers"):
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {cores} cores; Python {platform.python_version()}, {', '.join(versions)}"


def warn_if_busy() -> float:
    """The load average, with a warning when other work will spoil the figures."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"load average {load:.1f}: not idle, the figures will be off", file=sys.stderr)
    return load
