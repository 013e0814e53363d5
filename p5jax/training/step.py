"""The compiled training and evaluation steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from p5jax.parallel.partitioning import (
    batch_sharding,
    logical_mesh,
    param_shardings,
    replicated,
    state_shardings,
)
from p5jax.training.freezing import EVERYTHING, merged, split
from p5jax.training.objective import DeviceBatch, Objective


class Steps:
    """The compiled functions of one run, over one mesh.

    The state is t5x's tree {target: params, state: {step, param_states}}, all float32 but the
    int32 counters. `shardings` is the tree of its NamedShardings. Only the parameters that a
    pattern of `trainable` matches (see training.freezing) have gradients, optimizer state and
    weight decay.
    """

    def __init__(
        self,
        objective: Objective,
        tx: optax.GradientTransformation,
        mesh: Mesh,
        axes: Any,
        params: Any,
        *,
        seed: int,
        accumulate: int = 1,
        fsdp: bool = False,
        trainable: Sequence[str] = EVERYTHING,
    ) -> None:
        self.objective, self.tx, self.mesh = objective, tx, mesh
        self.accumulate, self.trainable = accumulate, tuple(trainable)
        self._seed = np.uint32(seed)
        shapes = jax.eval_shape(lambda p: p, params)
        target = param_shardings(mesh, axes, shapes, fsdp)
        abstract = jax.eval_shape(self._new_state, shapes)
        self.shardings = state_shardings(mesh, abstract, shapes, target)
        self.abstract_state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            self.shardings,
        )
        batch, whole = batch_sharding(mesh), replicated(mesh)
        state, trained = self.shardings, split(target, self.trainable)[0]
        self._init = jax.jit(self._new_state, out_shardings=state)
        self._fused = jax.jit(
            self._step,
            donate_argnums=0,
            in_shardings=(state, batch, None),
            out_shardings=(state, whole),
        )
        self._first = jax.jit(
            self._gradients,
            in_shardings=(target, batch, None),
            out_shardings=(trained, whole),
        )
        self._add = jax.jit(
            self._add_gradients,
            donate_argnums=0,
            in_shardings=((trained, whole), target, batch, None),
            out_shardings=(trained, whole),
        )
        self._apply = jax.jit(
            self._apply_gradients,
            donate_argnums=0,
            in_shardings=(state, trained, whole),
            out_shardings=(state, whole),
        )
        self._evaluate = jax.jit(
            lambda params, batch: objective(params, batch, None)[1],
            in_shardings=(target, batch),
            out_shardings=whole,
        )

    def init(self, params: Any) -> Any:
        """A fresh state from parameters, which stay the caller's (they are copied)."""
        return self._init(params)

    def update(
        self, state: Any, batches: Sequence[DeviceBatch], step: int
    ) -> tuple[Any, dict[str, Any]]:
        """One optimizer step over `accumulate` batches; `state` is donated.

        Returns the new state and the batches' sums with `gradient_norm` (before clipping). The
        dropout key of batch i of step s is fold_in(key(seed), s * accumulate + i).
        """
        with logical_mesh(self.mesh):
            if len(batches) == 1:
                state, sums = self._fused(state, batches[0], self._fold(step, 0))
                return state, sums
            grads = self._first(state["target"], batches[0], self._fold(step, 0))
            for i, batch in enumerate(batches[1:], start=1):
                grads = self._add(grads, state["target"], batch, self._fold(step, i))
            state, sums = self._apply(state, *grads)
            return state, sums

    def evaluate(self, params: Any, batch: DeviceBatch) -> dict[str, Any]:
        """The objective's sums without dropout."""
        with logical_mesh(self.mesh):
            return dict(self._evaluate(params, batch))

    def _fold(self, step: int, i: int) -> np.ndarray:
        return np.array([self._seed, step * self.accumulate + i], np.uint32)

    def _new_state(self, params: Any) -> Any:
        params = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
        return {
            "target": params,
            "state": {"step": jnp.int32(0), "param_states": self.tx.init(self._split(params)[0])},
        }

    def _split(self, params: Any) -> tuple[Any, Any]:
        return split(params, self.trainable)

    def _gradients(self, params: Any, batch: DeviceBatch, fold: jax.Array) -> tuple[Any, Any]:
        rng = jax.random.fold_in(jax.random.key(fold[0]), fold[1])
        trained, frozen = self._split(params)

        def total(p: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            return self.objective(merged(p, frozen), batch, rng)

        grads, sums = jax.grad(total, has_aux=True)(trained)
        return grads, sums

    def _add_gradients(self, so_far: Any, params: Any, batch: DeviceBatch, fold: jax.Array) -> Any:
        return jax.tree.map(jnp.add, so_far, self._gradients(params, batch, fold))

    def _apply_gradients(self, state: Any, grads: Any, sums: Any) -> tuple[Any, Any]:
        # Gradients are of sum(w * nll): dividing by all the batches' weight makes accumulation
        # exact even where the batches weigh differently. A batch without weight changes nothing.
        scale = 1.0 / jnp.maximum(sums["weight"], 1e-9)
        grads = jax.tree.map(lambda g: g * scale, grads)
        (trained, frozen), inner = self._split(state["target"]), state["state"]
        updates, param_states = self.tx.update(grads, inner["param_states"], trained)
        new = {
            "target": merged(optax.apply_updates(trained, updates), frozen),
            "state": {"step": inner["step"] + 1, "param_states": param_states},
        }
        return new, {**sums, "gradient_norm": optax.global_norm(grads)}

    def _step(self, state: Any, batch: DeviceBatch, fold: jax.Array) -> tuple[Any, Any]:
        return self._apply_gradients(state, *self._gradients(state["target"], batch, fold))
