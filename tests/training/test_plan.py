"""What a run may be resumed as, and which metric may judge it."""

from __future__ import annotations

import pytest

from p5jax.core.errors import UserError
from p5jax.training import plan
from p5jax.training.optimizer import OptimizerConfig

CONSTANT = OptimizerConfig(schedule="constant")


@pytest.fixture
def run_at(monkeypatch, tmp_path):
    """A function that makes a run, started for some steps, stand at others."""

    def stand(step, **fingerprint):
        monkeypatch.setattr(plan, "available_steps", lambda folder: [1, step])
        monkeypatch.setattr(plan, "read_progress", lambda folder: {"fingerprint": fingerprint})
        return tmp_path

    return stand


@pytest.mark.parametrize("steps", [3, 4])
def test_a_run_beyond_the_steps_asked_for_is_not_taken_for_done(run_at, steps):
    folder = run_at(5, TrainConfig={"steps": 3})  # started for 3 steps, then extended to 5
    with pytest.raises(UserError) as caught:
        plan.planned(folder, {"TrainConfig": {"steps": steps}}, CONSTANT, steps)
    assert str(caught.value) == (
        f"{folder}/checkpoint_5: the run is at step 5, beyond the {steps} steps asked for;"
        " ask for 5 or more, or choose another folder"
    )
    for more in (5, 6):
        wanted = {"TrainConfig": {"steps": more}}
        there = {"TrainConfig": {"steps": 3}}
        assert plan.planned(folder, wanted, CONSTANT, more) == (there, 3)


def test_only_the_number_of_steps_may_grow(run_at):
    folder = run_at(5, optimizer={"warmup_steps": 5})
    wanted = {"optimizer": {"warmup_steps": 6}}
    assert plan.planned(folder, wanted, CONSTANT, 6) == (wanted, 6)  # its difference is refused
