"""A backbone with a soft prompt, made from the user's profile, before the behaviour (PPR).

A prompt is made here, by `make`; Backbone.encode_embedded puts it before the behaviour and masks:
every row sees the prompt, none sees padding.

Letters: B users, M attributes, X profile width, S history length, P prompt length, L layers,
D model, C candidates, I items.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import jax
import numpy as np
from flax import linen as nn

from p5jax.models.initial import Params
from p5jax.models.layers import Array
from p5jax.parallel.placing import place_rows, to_host
from p5jax.ppr.backbone.model import STDDEV, Backbone, BackboneConfig, item_scores
from p5jax.ppr.generator import ProfileEmbedder, PromptConfig, PromptGenerator, TwoLayers

BACKBONE = "backbone"  # the backbone's parameters within the model's


class PromptedModel(nn.Module):
    """User vectors u_p = u_s + MLP_a(x_u), u_s being the backbone's state behind the prompt.

    sizes: of the attributes, or () where profiles are vectors (see ProfileEmbedder). Without
    `prompted` there is no prompt, as in fine-tuning.
    """

    backbone_config: BackboneConfig
    prompt_config: PromptConfig
    sizes: tuple[int, ...]
    prompted: bool = True

    def setup(self) -> None:
        backbone, prompt = self.backbone_config, self.prompt_config
        width = backbone.emb_dim
        self.backbone = Backbone(backbone)
        self.profile = ProfileEmbedder(self.sizes, prompt.attribute_dim)
        self.profile_mlp = TwoLayers(prompt.hidden or 2 * width, width, STDDEV)
        if self.prompted:
            self.generator = PromptGenerator(prompt, backbone.num_layers, width, STDDEV)

    def __call__(
        self, profiles: Array, items_BxS: Array, deterministic: bool = True
    ) -> tuple[Array, Array]:
        """User vectors u_p and states u_s, both [B, D], of profiles [B, M] or [B, X]."""
        x = self.profile(profiles)
        state = self.user_state(x, items_BxS, deterministic)
        return state + self.profile_mlp(x), state

    def user_state(self, x: Array, items_BxS: Array, deterministic: bool = True) -> Array:
        """u_s [B, D] of profile vectors x [B, X]."""
        return self.backbone.user_state(items_BxS, self.make(x), deterministic)

    def profile_vector(self, profiles: Array) -> Array:
        """x_u [B, X] of profiles [B, M] or [B, X]."""
        return self.profile(profiles)

    def make(self, x: Array) -> Array | None:
        """The prompt [B, P, L, D] of profile vectors x [B, X]; None without one."""
        return self.generator(x) if self.prompted else None

    def item_table(self) -> Array:
        """The items' embeddings [I, D]."""
        return self.backbone.item_table()


class PromptedScorer:
    """Scores of items for users of known profiles, for any histories.

    features: int32 [U, M] attribute codes or float32 [U, X] vectors, a row per dataset user.
    """

    def __init__(self, model: PromptedModel, params: Params, features: np.ndarray):
        self.model, self.params, self.features = model, params, features

    def __call__(
        self, users: np.ndarray, items_NxS: np.ndarray, candidates: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores [N, C] of candidates (dataset items), or [N, I] of all items.

        Histories longer than the backbone's max_history are cut to their most recent items.
        """
        return self.scores(self.features[users], items_NxS, candidates)

    def scores(
        self, features: np.ndarray, items_NxS: np.ndarray, candidates: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the scores for profiles [N, M] or [N, X] of users who may be in no dataset."""
        cut = items_NxS[:, -self.model.backbone_config.max_history :]
        given = (features, cut) if candidates is None else (features, cut, candidates)
        placed = (place_rows(self.params, array) for array in given)
        scores: np.ndarray = to_host(_scores(self.model, self.params, *placed))
        return scores[: len(items_NxS)]


@partial(jax.jit, static_argnums=0)
def _scores(
    model: PromptedModel,
    params: Params,
    profiles: Array,
    items_BxS: Array,
    candidates: Array | None = None,
) -> Array:
    variables = {"params": params}
    users, _ = cast(tuple[Array, Array], model.apply(variables, profiles, items_BxS))
    table = cast(Array, model.apply(variables, method="item_table"))
    return item_scores(users, table, candidates)
