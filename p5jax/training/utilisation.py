"""What a training step does, and how much of a device's peak that is."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from p5jax.models.flops import training_flops
from p5jax.models.t5_config import T5Config
from p5jax.training.objective import DeviceBatch

# Dense bfloat16 operations per second of one device, by the beginning of its `device_kind`, the
# longer ones first; from the makers' data sheets.
PEAKS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """The bfloat16 operations per second of one device; None where they are not known, as of CPUs.

    A name may go on ("NVIDIA H100 80GB HBM3"), but not with a digit (an L40 is no L4), and a slice
    of a GPU (MIG) has not all of it.
    """
    if "MIG" in device_kind:
        return None
    for kind, peak in PEAKS.items():
        if device_kind.startswith(kind) and not device_kind[len(kind) :][:1].isdigit():
            return peak
    return None


def t5_work(config: T5Config, batch: DeviceBatch) -> dict[str, float]:
    """The positions, padding too, and operations of a step that trains a whole T5 on a batch."""
    rows, source = batch["encoder_input_tokens"].shape
    target = batch["decoder_target_tokens"].shape[1]
    return {
        "positions": float(rows * (source + target)),
        "flops": float(training_flops(config, rows, source, target)),
    }


def utilisation(sums: Mapping[str, float], seconds: float, devices: int) -> dict[str, float]:
    """`train/mfu`, the share of the bfloat16 peak, where operations and the peak are known."""
    peak = peak_flops(jax.devices()[0].device_kind)
    if peak is None or "flops" not in sums:
        return {}
    return {"train/mfu": sums["flops"] / (seconds * peak * devices)}
