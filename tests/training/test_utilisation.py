"""The share of a device's peak that a run reports."""

from __future__ import annotations

import io

import jax
import pytest
from toy_training import Batches, train_toy

from p5jax.models.flops import training_flops
from p5jax.models.t5 import T5Config
from p5jax.training.trainer import TrainConfig
from p5jax.training.utilisation import PEAKS, peak_flops, t5_work
from p5jax.training.writers import read_metrics


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
    ],
)
def test_the_peak_is_the_devices(kind, tera):
    assert peak_flops(kind) == tera * 1e12


@pytest.mark.parametrize(
    "kind", ["cpu", "NVIDIA L40S", "NVIDIA A1000", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v7x"]
)
def test_of_other_devices_there_is_none(kind):
    assert peak_flops(kind) is None


def test_a_batch_of_a_t5_takes_its_shape():
    config, batch = T5Config(64, 32, 4, 1, 1, 8, 16), next(Batches(lengths=(16,)))
    assert t5_work(config, batch) == {
        "positions": 8 * (16 + 4),
        "flops": training_flops(config, 8, 16, 4),
    }


def work(batch):
    positions = batch["encoder_input_tokens"].size + batch["decoder_target_tokens"].size
    return {"positions": positions, "flops": 1e6 * positions}


@pytest.mark.parametrize("known", [True, False])
def test_records_and_the_progress_line_say_what_was_used(tmp_path, monkeypatch, known):
    devices = jax.device_count()
    if known:
        monkeypatch.setitem(PEAKS, jax.devices()[0].device_kind, 1e12)
    stream = io.StringIO()
    config = TrainConfig(steps=4, log_every=4)
    train_toy(tmp_path, Batches(lengths=(8,)), config, work=work, stream=stream)
    (record, *_) = read_metrics(tmp_path / "metrics.jsonl")
    assert record["train/positions_per_step"] == 8 * (8 + 4)
    rate = record["train/positions_per_second"]
    assert rate > record["train/tokens_per_second"]
    line = next(text for text in stream.getvalue().splitlines() if text.startswith("step 4/4"))
    assert " with padding)" in line
    if known:  # 1e6 operations a position, of 1e12 a second and device
        assert record["train/mfu"] == pytest.approx(rate * 1e6 / (devices * 1e12))
    assert ("train/mfu" in record) == ("% MFU" in line) == known
