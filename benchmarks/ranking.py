"""Catalogue ranking by p5jax beside transformers' beam search, at the same weights in one run.

    python benchmarks/ranking.py --vocabulary spiece.model [--users 8] [--items 12101] [--beam 20]
                                 [--source 128] [--rounds 5] [--steps 100] [--out FILE.json]
    python benchmarks/ranking.py --run RUN [--limit N]

The first form: T5-small's shape, ids as P5 writes them ("item_417"; p5jax's own are `--ids {}`),
the `--beam` best items for each of `--users` sources of random tokens. The weights are trained for
`--steps` steps to write ids at random, so that ids end where they should, and nothing else: all
items are about as probable, the hardest case for a certificate. transformers searches freely, which
may write what is no item, and over a trie of the ids (prefix_allowed_tokens_fn); p5jax ranks by its
three methods. Each framework has a process of its own, idle while the other works; rounds alternate
between the variants; figures are medians, and a warm-up round is left out.

The second form: the sequential test split of a trained run from prompts to metrics, by several
methods: users/s, how many lists are certified, and what the metrics are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from hardware import available_cores, describe, warn_if_busy
from training import SIZES

FREE, CONSTRAINED = "torch free beam", "torch trie beam"
RANKERS: dict[str, dict[str, Any]] = {
    "p5jax certified": {"method": "certified"},
    "p5jax textbook beam": {"method": "beam"},
    "p5jax exact": {"method": "exact"},
    "p5jax exact, over children": {"method": "exact", "likelihood": "children"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "beam 20": {"method": "beam", "beam": 20},
    "certified 20": {"beam": 20},
    "certified 64": {"beam": 64},
    "certified 64 --exact": {"beam": 64, "exact": True},
    "exact": {"method": "exact"},
}
Ranker = Callable[[str, np.ndarray], str]
_ROWS = 128  # of a batch when the weights learn what an id is


def id_tokens(args: argparse.Namespace) -> list[list[int]]:
    """The ids of items 1 … `--items` as tokens with their end of sequence."""
    from p5jax.text.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_model(args.vocabulary)
    return [
        [*vocabulary.encode(args.ids.format(n + 1)), vocabulary.eos_id] for n in range(args.items)
    ]


def export_weights(folder: Path, ids: list[list[int]], steps: int, size: str = "small") -> None:
    """Write a T5 that has learnt what an id is; both frameworks read it."""
    import jax
    import optax

    from p5jax.models.checkpoints.hugging_face import export_hugging_face
    from p5jax.models.t5 import T5Config, Transformer, init_params
    from p5jax.training.objective import loss_fn
    from p5jax.training.optimizer import OptimizerConfig, make_optimizer

    vocab, width, heads, head, mlp, layers = SIZES[size]
    sizes = (vocab, width, heads, layers, layers, head, mlp)
    model = Transformer(T5Config(*sizes, whole_words=False))
    params = init_params(model, jax.random.key(0))
    tx, _ = make_optimizer(OptimizerConfig("adafactor", 2e-2, weight_decay=0.0), steps)
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        loss, gradients = jax.value_and_grad(lambda p: loss_fn(model, p, batch))(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    rng, width = np.random.default_rng(1), max(map(len, ids))
    targets = np.array([[*id, *[0] * (width - len(id))] for id in ids], np.int32)
    for number in range(steps):
        drawn = targets[rng.integers(len(ids), size=_ROWS)]
        batch = {
            "encoder_input_tokens": rng.integers(3, vocab - 128, (_ROWS, 8)).astype(np.int32),
            "decoder_input_tokens": np.pad(drawn, ((0, 0), (1, 0)))[:, :-1],
            "decoder_target_tokens": drawn,
            "decoder_loss_weights": (drawn > 0) / np.maximum((drawn > 0).sum(1, keepdims=True), 1),
        }
        params, state, loss = step(params, state, batch)
        if number % 10 == 0 or number == steps - 1:
            note = f"learning ids, step {number + 1}/{steps}: loss {float(loss):.3f} a token"
            print(note, file=sys.stderr, flush=True)
    export_hugging_face(params, model.config, folder)


def torch_ranker(folder: Path, ids: list[list[int]], args: argparse.Namespace) -> Ranker:
    """transformers' beam search, free and over a trie of dicts."""
    import torch
    import transformers

    torch.set_num_threads(available_cores())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    model: Any = loaded.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    longest, real = max(map(len, ids)), {tuple(tokens) for tokens in ids}
    root: dict[int, Any] = {}
    for tokens in ids:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})

    def allowed(_: int, prefix: Any) -> list[int]:
        node = root
        for token in prefix.tolist()[1:]:
            node = node.get(token, {})
        return list(node) or [0]  # a finished text is padded

    def rank(name: str, tokens: np.ndarray) -> str:
        source = torch.from_numpy(tokens).long().to(device)
        with torch.no_grad():
            texts = model.generate(
                input_ids=source,
                attention_mask=(source != 0).long(),
                num_beams=args.beam,
                num_return_sequences=args.beam,
                max_new_tokens=longest,
                prefix_allowed_tokens_fn=allowed if name == CONSTRAINED else None,
            )
        found = [tuple(text[: text.index(1) + 1]) for text in texts[:, 1:].tolist() if 1 in text]
        return f"{sum(text in real for text in found) / len(texts):.0%} of the texts are items"

    return rank


def p5jax_ranker(folder: Path, ids: list[list[int]], args: argparse.Namespace) -> Ranker:
    """p5jax's three methods, and `exact` renormalised over the ids' own continuations."""
    from p5jax.inference.ranking import rank as rank_items
    from p5jax.inference.trie import Trie
    from p5jax.models.checkpoints.hugging_face import import_hugging_face
    from p5jax.models.t5 import Transformer
    from p5jax.parallel import runtime

    runtime.set_up()
    config, params = import_hugging_face(folder)
    tries = {collapse: Trie.build(ids, collapse) for collapse in (True, False)}
    trie = tries[True]
    print(f"{trie.num_nodes} nodes, {len(trie.edge_token)} edges", file=sys.stderr, flush=True)

    def rank(name: str, tokens: np.ndarray) -> str:
        options = RANKERS[name]
        chosen = tries[options["method"] != "beam"]
        model = Transformer(config)
        found = rank_items(model, params, tokens, chosen, args.beam, beam=args.beam, **options)
        return f"{found.exact.mean():.0%} of the lists are exact"

    return rank


def serve(pipe: Connection, make: Any, folder: Path, args: argparse.Namespace) -> None:
    """A framework's process: answer (variant, sources) with the seconds it took."""
    try:
        rank = make(folder, id_tokens(args), args)
    except ImportError as error:
        pipe.send(f"{error}: the comparison needs it, pip install torch transformers")
        return
    pipe.send(None)
    while job := pipe.recv():
        start = time.perf_counter()
        note = rank(*job)
        pipe.send((time.perf_counter() - start, note))


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Time every variant in turn, `--rounds` times; print and return the medians."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    seconds: dict[str, list[float]] = {name: [] for name in (FREE, CONSTRAINED, *RANKERS)}
    with tempfile.TemporaryDirectory() as folder:
        export_weights(Path(folder), id_tokens(args), args.steps)
        for name, make in (("torch", torch_ranker), ("p5jax", p5jax_ranker)):
            pipes[name], theirs = context.Pipe()
            arguments = theirs, make, Path(folder), args
            context.Process(target=serve, args=arguments, daemon=True).start()
            theirs.close()  # so that a process that dies ends our recv
            if problem := pipes[name].recv():
                raise SystemExit(problem)
        rng = np.random.default_rng(0)
        for number in range(args.rounds + 1):
            tokens = rng.integers(3, 32000, (args.users, args.source)).astype(np.int32)
            tokens[:, -1] = 1
            for name, taken in seconds.items():
                pipe = pipes[name.split()[0]]
                pipe.send((name, tokens))
                one, note = pipe.recv()
                taken += [one] if number else []
                what = f"round {number}/{args.rounds}" if number else "warm-up, not counted"
                print(f"{what}, {name}: {one:.2f} s, {note}", file=sys.stderr, flush=True)
        for pipe in pipes.values():
            pipe.send(None)
    print(f"T5-small shape, {args.items} items ({args.ids}), {args.users} users,")
    print(
        f"{args.source} source tokens, beam {args.beam}, float32, medians of {args.rounds} rounds\n"
    )
    print(f"{'':28} {'seconds':>8} {'least':>6} {'most':>6} {'users/s':>8} x free x trie")
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, median in medians.items():
        spread = f"{min(seconds[name]):6.2f} {max(seconds[name]):6.2f}"
        ratios = f"{medians[FREE] / median:6.2f} {medians[CONSTRAINED] / median:6.2f}"
        print(f"{name:28} {median:8.2f} {spread} {args.users / median:8.2f} {ratios}")
    return {"seconds": seconds, "median": medians}


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a run's sequential test split by each setting; print and return the figures."""
    from p5jax.evaluation.evaluators import evaluate_family
    from p5jax.evaluation.settings import EvaluationConfig
    from p5jax.parallel import runtime
    from p5jax.runs.run import Run

    runtime.set_up()
    run, figures = Run.load(args.run), {}
    print(f"{'':22} {'users':>6} {'users/s':>8} certified  HR@10 NDCG@10")
    for name, options in SETTINGS.items():
        config = EvaluationConfig(**options)
        evaluate_family(run, "sequential", "2-3", "test", 64, config=config)  # compiles
        start = time.perf_counter()
        result = evaluate_family(run, "sequential", "2-3", "test", args.limit, config=config)
        rate = result.n / (time.perf_counter() - start)
        found = {key: result.metrics[key][0] for key in ("certified", "HR@10", "NDCG@10")}
        cells = f"{found['certified']:9.4f} {found['HR@10']:6.4f} {found['NDCG@10']:7.4f}"
        print(f"{name:22} {result.n:6} {rate:8.1f} {cells}", flush=True)
        figures[name] = found | {"users_per_second": rate}
    return {"settings": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description="p5jax's ranking beside transformers'")
    parser.add_argument("--vocabulary", help="T5's SentencePiece model")
    parser.add_argument("--run", help="a trained run, for the whole test split")
    defaults = (
        ("users", 8),
        ("items", 12101),
        ("beam", 20),
        ("source", 128),
        ("rounds", 5),
        ("steps", 100),
    )
    for name, default in defaults:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ids", default="item_{}", help="how an item's number is written")
    parser.add_argument("--limit", type=int, help="users of the run's test split")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    if bool(args.vocabulary) == bool(args.run):
        parser.error("expected either --vocabulary FILE or --run RUN")
    if min(args.users, args.items, args.beam, args.source, args.rounds) < 1:
        parser.error("--users, --items, --beam, --source and --rounds: expected at least 1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # as torch, whatever else the machine has
    load = warn_if_busy()
    print(describe(available_cores()))
    result = compare(args) if args.vocabulary else evaluate(args)
    result |= {"hardware": describe(available_cores()), "load_before": load}
    if args.out:
        args.out.write_text(json.dumps(result | {"options": vars(args)}, default=str) + "\n")


if __name__ == "__main__":
    main()
