"""The cost of one replacement of a trigger token: p5jax beside a plain PyTorch loop, in one run.

    python benchmarks/triggers.py RUN [--users 64] [--gradient-examples 16] [--beams 5 20]
                                  [--rounds 3] [--seed 0] [--out FILE.json]

RUN is a trained run with the sequential family. Its weights go to transformers' T5 without the
whole-word table, which that model lacks, and p5jax leaves it out here too: the same weights, data,
tokens and candidates for both. A replacement is the gradient of one batch of training examples at
one position, its five candidates, and each candidate's HR@5 + NDCG@5 on the validation users.

The loop is what the paper describes: one backward pass; then one candidate after another, one batch
of 16 users after another, by `generate` with a beam over the ids of items outside the user's
history, or with a free beam, which is cheaper and may write what is no item. p5jax scores all
candidates of all users through one program; `racing` is a round as the search does it: candidates
are dropped on growing shares of one half of the users, the winner is tested on the other half;
`user tokens` gives every user a gradient and five candidates of its own. Each framework has
a process of its own, idle while the other works; a warm-up round is left out, figures are medians
of the others.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hardware import available_cores, describe, warn_if_busy

CANDIDATES, TASK_TOKENS, BATCH, CUT = 5, 5, 16, 5


class TorchLoop:
    """A frozen T5 in PyTorch, and the two halves of a replacement."""

    def __init__(self, folder: str, ids: Sequence[Sequence[int]], threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch, self.device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        loaded: Any = transformers.T5ForConditionalGeneration.from_pretrained(folder)
        self.model = loaded.eval().requires_grad_(False).to(self.device)
        self.ids = [tuple(tokens) for tokens in ids]
        self.item_of = {tokens: item for item, tokens in enumerate(self.ids)}
        self.following: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for tokens in self.ids:  # how many items go on with each token
            for place, token in enumerate(tokens):
                below = self.following[tokens[:place]]
                below[token] = below.get(token, 0) + 1

    def gradient(self, tokens: np.ndarray, targets: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The summed loss gradient at one place of each prompt: [D]."""
        torch = self.torch
        source, labels = (torch.from_numpy(x).long().to(self.device) for x in (tokens, targets))
        embedded = self.model.get_input_embeddings()(source).requires_grad_()
        logits = self.model(
            inputs_embeds=embedded,
            attention_mask=(source != 0).long(),
            decoder_input_ids=torch.nn.functional.pad(labels, (1, -1)),
        ).logits
        nll = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels.masked_fill(labels == 0, -100), reduction="none"
        )
        (nll.sum(dim=1) / (labels != 0).sum(dim=1)).sum().backward()
        return embedded.grad.cpu().numpy()[np.arange(len(tokens)), places].sum(axis=0)

    def values(
        self, tokens: np.ndarray, items: np.ndarray, exclude: np.ndarray, beam: int, free: bool
    ) -> np.ndarray:
        """HR@5 + NDCG@5 of one batch of prompts [B]; `free` may write what is no item."""
        torch = self.torch
        source = torch.from_numpy(tokens).long().to(self.device)
        banned = [self._banned(row) for row in exclude]

        def allowed(row: int, prefix: Any) -> list[int]:
            so_far = tuple(prefix.tolist()[1:])
            below = self.following.get(so_far, {})
            gone = banned[row]
            return [t for t, n in below.items() if n > gone.get((*so_far, t), 0)] or [0]

        with torch.no_grad():
            found = self.model.generate(
                input_ids=source,
                attention_mask=(source != 0).long(),
                num_beams=beam,
                num_return_sequences=CUT,
                max_new_tokens=max(map(len, self.ids)),
                length_penalty=0.0,
                early_stopping="never",
                prefix_allowed_tokens_fn=None if free else allowed,
            )
        values = []
        for row, item in enumerate(items.tolist()):
            texts = found[row * CUT : (row + 1) * CUT].tolist()
            said = [self.item_of.get(tuple(t[1 : t.index(1) + 1] if 1 in t else t)) for t in texts]
            place = said.index(item) if item in said else None
            values.append(0.0 if place is None else 1.0 + 1.0 / np.log2(place + 2))
        return np.array(values)

    def _banned(self, exclude: np.ndarray) -> dict[tuple[int, ...], int]:
        """How many excluded items have each prefix."""
        counts: dict[tuple[int, ...], int] = defaultdict(int)
        for item in exclude[exclude >= 0].tolist():
            for place in range(len(self.ids[item])):
                counts[self.ids[item][: place + 1]] += 1
        return counts


def serve(pipe: Any, folder: str, ids: Any, threads: int) -> None:
    """Answer (method, arguments) with (seconds, result)."""
    loop = TorchLoop(folder, ids, threads)
    while (request := pipe.recv()) is not None:
        method, arguments = request
        started = time.monotonic()
        result = getattr(loop, method)(*arguments)
        pipe.send((time.monotonic() - started, result))


def without_whole_words(run: Any) -> None:
    """Leave the whole-word table out of a loaded run."""
    from p5jax.models.t5 import Transformer

    params = {name: part for name, part in run.params.items() if name != "whole_word_embedder"}
    run.model = Transformer(replace(run.model.config, whole_words=False))
    run.params = params


class Replacement:
    """One round's work, done by both."""

    def __init__(self, run: Any, args: argparse.Namespace, beam: int, call: Any):
        from p5jax.triggers.layout import Layout
        from p5jax.triggers.problem import Problem
        from p5jax.triggers.settings import SearchConfig, SurrogateConfig

        config = SearchConfig(
            "sequential",
            Layout(TASK_TOKENS, 1),
            SurrogateConfig(beam=beam),
            candidates=CANDIDATES,
            users=args.users,
            evidence=1,
            gradient_examples=args.gradient_examples,
            seed=args.seed,
        )
        self.problem, self.beam, self.call = Problem(run, config), beam, call
        if any(self.problem.validation.given):
            raise SystemExit("RUN: its answers begin with items, which the PyTorch loop cannot do")
        self.prompt = self.problem.initial_prompt()
        self.before = self.problem.values(self.prompt)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.equal = self.compared = self.same_winner = self.same_decision = self.raced = 0

    def round(self, number: int) -> None:
        """One replacement by every way; nothing is changed."""
        problem, prompt = self.problem, self.prompt
        rng = np.random.default_rng([problem.config.seed, number])
        slot = int(rng.integers(TASK_TOKENS))
        examples = problem.training_sample(number, rng)
        started = time.monotonic()
        gradient = problem.gradients(prompt, examples).task[[slot]]
        tokens = problem.candidates(gradient, prompt.task[[slot]])[0]
        self.times["p5jax gradient"].append(time.monotonic() - started)
        self._torch_gradient(examples, slot)
        rows = np.arange(len(problem.validation))
        started = time.monotonic()
        ours = self._values(slot, np.repeat(tokens, len(rows)), np.tile(rows, len(tokens))).reshape(
            len(tokens), -1
        )
        self.times["p5jax scoring"].append(time.monotonic() - started)
        theirs = self._torch_scoring(slot, tokens, free=False)
        self._torch_scoring(slot, tokens, free=True)
        self.equal += int(np.isclose(ours, theirs).sum())
        self.compared += ours.size
        self._race(slot, tokens, ours, number)
        self._users()

    def _values(self, slot: int, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The values of validation examples with tokens in one slot."""
        problem = self.problem
        return problem.values_with(self.prompt, slot, tokens, problem.validation, rows)

    def _torch_gradient(self, examples: Any, slot: int) -> None:
        slots, seconds = self.prompt.slots(examples.users), 0.0
        for first in range(0, len(examples), BATCH):
            rows = np.arange(first, min(first + BATCH, len(examples)))
            tokens = examples.filled(rows, slots[rows])
            arguments = tokens, examples.targets[rows], examples.positions[rows, slot]
            seconds += self.call("gradient", *arguments)[0]
        self.times["torch gradient"].append(seconds)

    def _torch_scoring(self, slot: int, tokens: np.ndarray, free: bool) -> np.ndarray:
        examples, seconds = self.problem.validation, 0.0
        values = np.empty((len(tokens), len(examples)))
        for number, token in enumerate(tokens):
            slots = self.prompt.slots(examples.users)
            slots[:, slot] = token
            for first in range(0, len(examples), BATCH):
                rows = np.arange(first, min(first + BATCH, len(examples)))
                prompts = examples.filled(rows, slots[rows])
                known = examples.items[rows], examples.exclude[rows]
                took, values[number, rows] = self.call("values", prompts, *known, self.beam, free)
                seconds += took
        self.times["torch scoring, free" if free else "torch scoring"].append(seconds)
        return values

    def _race(self, slot: int, tokens: np.ndarray, full: np.ndarray, number: int) -> None:
        """The scoring of a round as the search does it, and whether it ends as scoring all does."""
        from p5jax.triggers.race import p_value, race

        problem, config, before = self.problem, self.problem.config, self.before
        rows, others = np.flatnonzero(problem.search_half), np.flatnonzero(~problem.search_half)

        def accepted(winner: int, after: np.ndarray) -> int:
            return winner if p_value(after - before[others]) <= config.accept_level else -1

        started = time.monotonic()
        winner, _, _ = race(
            lambda chosen, examples: self._values(slot, tokens[chosen], rows[examples]),
            before[rows],
            len(tokens),
            config.racing_level,
            np.random.default_rng([config.seed, 3, number]),
        )
        decision = winner
        if winner >= 0:
            token = np.full(len(others), tokens[winner])
            decision = accepted(winner, self._values(slot, token, others))
        self.times["p5jax racing"].append(time.monotonic() - started)
        means = full[:, rows].mean(axis=1)
        best = int(means.argmax()) if means.max() > before[rows].mean() else -1
        self.same_winner += winner == best
        self.same_decision += decision == (best if best < 0 else accepted(best, full[best, others]))
        self.raced += 1

    def _users(self) -> None:
        """A round of the users' own tokens as the search does it, with as many examples."""
        from p5jax.triggers.moves import user_tokens_move

        problem, prompt = self.problem, self.prompt
        evidence = problem.evidence  # tokenised once in a search
        started = time.monotonic()
        gradients = problem.gradients(prompt, evidence).users
        user_tokens_move(problem, prompt, self.before, 0, gradients, (0,))
        self.times["p5jax user tokens"].append(time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--gradient-examples", type=int, default=16)
    parser.add_argument("--beams", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cores = available_cores()
    warn_if_busy()
    from p5jax.models.checkpoints.hugging_face import export_hugging_face
    from p5jax.parallel import runtime
    from p5jax.runs.run import Run

    runtime.set_up()
    run = Run.load(args.run)
    without_whole_words(run)
    ids = [[*run.vocabulary.encode(id), run.vocabulary.eos_id] for id in run.dataset.item_ids]
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with tempfile.TemporaryDirectory() as folder:
        export_hugging_face(run.params, run.model.config, folder)
        worker = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, folder, ids, cores), daemon=True
        )
        worker.start()

        def call(method: str, *arguments: Any) -> tuple[float, Any]:
            ours.send((method, arguments))
            return ours.recv()

        report: dict[str, Any] = {
            "hardware": describe(cores),
            "arguments": vars(args) | {"out": ""},
        }
        print(report["hardware"])
        for beam in args.beams:
            replacement = Replacement(run, args, beam, call)
            for number in range(args.rounds + 1):
                replacement.round(number)
            report[f"beam {beam}"] = summary(replacement)
        ours.send(None)
        worker.join()
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def summary(replacement: Replacement) -> dict[str, Any]:
    """Print and return the medians and their ratios."""
    seconds = {name: statistics.median(times[1:]) for name, times in replacement.times.items()}
    loop = seconds["torch gradient"] + seconds["torch scoring"]
    free = seconds["torch gradient"] + seconds["torch scoring, free"]
    full = seconds["p5jax gradient"] + seconds["p5jax scoring"]
    racing = seconds["p5jax gradient"] + seconds["p5jax racing"]
    print(f"\nbeam {replacement.beam}, {len(replacement.problem.validation)} users")
    for name, value in seconds.items():
        print(f"  {name:20} {value:8.2f} s")
    print(f"  replacement: p5jax {full:.2f} s, with racing {racing:.2f} s")
    for name, value in (("loop over items", loop), ("loop with a free beam", free)):
        ratios = f"{value / full:.2f}x, {value / racing:.2f}x"
        print(f"  PyTorch {name} {value:.2f} s: {ratios}")
    print(f"  all users' own tokens: {seconds['p5jax user tokens'] / full:.2f} of a shared one")
    equal = replacement.equal / replacement.compared
    print(f"  equal values: {equal:.4f} of {replacement.compared}")
    raced = replacement.raced
    print(f"  racing has the same winner in {replacement.same_winner} of {raced} rounds,")
    print(f"  and takes or refuses the same change in {replacement.same_decision}")
    return {
        "seconds": seconds,
        "ratio": loop / full,
        "racing ratio": loop / racing,
        "ratio, free beam": free / full,
        "racing ratio, free beam": free / racing,
        "users over shared": seconds["p5jax user tokens"] / full,
        "equal values": equal,
        "racing, same winner": replacement.same_winner / raced,
        "racing, same decision": replacement.same_decision / raced,
    }


if __name__ == "__main__":
    main()
