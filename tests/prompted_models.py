"""Small prompted models with parameters that all matter."""

from __future__ import annotations

import jax
import numpy as np

from p5jax.models.initial import fresh_params
from p5jax.ppr.backbone.model import BackboneConfig
from p5jax.ppr.generator import (
    PromptConfig,
)
from p5jax.ppr.model import PromptedModel
from p5jax.ppr.tuning import TuneConfig

BACKBONE = BackboneConfig(num_items=60, emb_dim=8, num_layers=2, mlp_dim=8, max_history=12)
PROMPT = PromptConfig(length=2, hidden=6, attribute_dim=3)
SIZES = (4, 3)
TUNE = TuneConfig(steps=6, validate_every=3, batch_size=16, learning_rate=0.02)


def spread(params, seed=0):
    """Parameters of about unit size, so that every one of them matters."""
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    return jax.tree.map(lambda x: 0.5 * jax.random.normal(next(keys), x.shape), params)


def model_and_params(sizes=SIZES, prompted=True, features=None):
    model = PromptedModel(BACKBONE, PROMPT, sizes, prompted)
    features = np.zeros((1, 2), np.int32) if features is None else features
    return model, spread(
        fresh_params(model, jax.random.key(0), features[:1], np.zeros((1, 3), int))
    )
