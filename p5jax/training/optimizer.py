"""Optimizers: AdamW or Adafactor with warm-up, global-norm clipping and masked weight decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from p5jax.core.errors import UserError
from p5jax.core.settings import BELOW_ONE, COUNT, SHARE, SIZE, above, check

OPTIMIZERS = ("adamw", "adafactor")
SCHEDULES = ("linear", "constant", "rsqrt")
# Last component of a parameter's path -> never decayed: layer-norm scales, biases and the
# relative-position bias table.
UNDECAYED = ("scale", "bias", "rel_embedding")


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer settings; the defaults are P5's published ones (AdamW, Geng et al. 2022).

    `learning_rate` is the peak reached after warm-up; with Adafactor it multiplies each
    parameter's own scale. `clip` is the largest global gradient norm (0: no clipping).
    `accumulate` is the number of pipeline batches whose gradients make one step.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    warmup_fraction: float = 0.05
    schedule: str = "linear"
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        check(
            self,
            name=OPTIMIZERS,
            learning_rate=COUNT,
            warmup_fraction=SHARE,
            schedule=SCHEDULES,
            weight_decay=COUNT,
            b1=BELOW_ONE,
            b2=BELOW_ONE,
            eps=above(0),
            clip=COUNT,
            accumulate=SIZE,
        )


def make_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Learning rate of the 0-based step: warm-up from 0, then the chosen decay.

    The warm-up lasts W = ceil(warmup_fraction * total_steps) steps, the rate of step s < W being
    peak * s / W. After it: `linear` falls to 0 at total_steps (P5's), `constant` stays at the
    peak, `rsqrt` is peak * sqrt(W / s) (Raffel et al. 2020, section 3.1.2).
    """
    if total_steps < 1:
        raise UserError(f"training steps: found {total_steps}, expected at least 1")
    warmup = math.ceil(config.warmup_fraction * total_steps)
    peak = config.learning_rate

    def schedule(step: Any) -> jax.Array:
        s = jnp.asarray(step, jnp.float32)
        if config.schedule == "linear":
            left = (total_steps - s) / max(1, total_steps - warmup)
            decayed = peak * jnp.clip(left, 0.0, 1.0)
        elif config.schedule == "constant":
            decayed = jnp.full_like(s, peak)
        else:
            start = max(1, warmup)
            decayed = peak * jnp.sqrt(start / jnp.maximum(s, start))
        return jnp.where(s < warmup, peak * s / max(1, warmup), decayed)

    return schedule


def decay_mask(params: Any) -> Any:
    """Tree of bools beside `params`: True where weight decay applies.

    Layer-norm scales, biases and relative-position biases are left out. P5 means the same
    (`no_decay = ["bias", "LayerNorm.weight"]`), although the second name never matches a
    Hugging Face T5 parameter.
    """

    def decayed(path: tuple[Any, ...], _: Any) -> bool:
        return getattr(path[-1], "key", None) not in UNDECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)


def make_optimizer(
    config: OptimizerConfig, total_steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The gradient transformation and its schedule, for a run of `total_steps` updates.

    Decay is decoupled and scaled by the learning rate for both optimizers (Loshchilov and
    Hutter 2019). Adafactor is Shazeer and Stern 2018 with parameter scaling and no momentum.
    Accumulation is not in here: the trainer sums gradients over `config.accumulate` batches, so
    that a checkpoint never falls between two of them.
    """
    schedule = make_schedule(config, total_steps)
    if config.name == "adamw":
        core = optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        )
    else:
        core = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
            optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
            optax.scale_by_learning_rate(schedule),
        )
    if config.clip == 0:
        return core, schedule
    return optax.chain(optax.clip_by_global_norm(config.clip), core), schedule
