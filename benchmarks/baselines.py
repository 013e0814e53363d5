"""The baselines of every family of a dataset, without a model: python benchmarks/baselines.py DIR.

What `p5jax evaluate` shows beside a run, on all examples of its usual prompts.
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import pyarrow as pa

from p5jax.core.progress import print_progress
from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.evaluation.baselines.results import baseline_results
from p5jax.evaluation.prompts import default_prompts
from p5jax.evaluation.results import FamilyResult, format_results
from p5jax.evaluation.task import kind_of
from p5jax.prompts.families import Family, FamilyConfig, make_families
from p5jax.prompts.template_files import load_templates


class Words:
    """Counts words, for prompts that nobody reads."""

    def encode(self, text: str) -> list[int]:
        return [0] * len(text.split())


def answers(family: Family, prompt_id: str, kind: str, split: str) -> FamilyResult:
    """The examples of a prompt as a result without predictions, in the order of an evaluation's."""
    examples = [
        family.example(split, index, prompt_id=prompt_id)
        for index in range(family.size(split, prompt_id))
    ]
    examples.sort(key=lambda example: (example.user, example.item))
    target = family.source.dataset.target
    items = [target(e.user, split) if kind == "yes_no" else e.item for e in examples]
    columns = {"user": pa.array([e.user for e in examples], pa.int32())}
    columns["item"] = pa.array(items, pa.int32())
    if kind in ("rating", "text"):
        columns["reference"] = pa.array([e.answer for e in examples])
    table = pa.table(columns)
    return FamilyResult(family.name, prompt_id, True, len(examples), {}, table, [], kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--splits", nargs="+", default=["validation"])
    arguments = parser.parse_args()
    dataset = Dataset.load(arguments.dataset)
    config = FamilyConfig(max_source=1 << 20)
    families = make_families(dataset, load_templates("amazon"), Words(), config)
    run = SimpleNamespace(dataset=dataset, families=families)
    ranking = RankingBaselines(dataset, print_progress)
    for name in ranking.names:
        started = time.perf_counter()
        ranking.scorer(name)
        print(f"{name}: fitted in {time.perf_counter() - started:.1f} s")
    for split in arguments.splits:
        found: dict[tuple[str, str], FamilyResult] = {}
        for family in families.values():
            for prompt_id in default_prompts(family, split):
                kind = kind_of(family.template(prompt_id))
                if kind not in ("choice", "yes_no"):
                    result = answers(family, prompt_id, kind, split)
                    found[family.name, kind] = max(
                        found.get((family.name, kind), result), result, key=lambda r: r.n
                    )
        started = time.perf_counter()
        results = [b for r in found.values() for b in baseline_results(run, r, split, ranking)]
        seconds = time.perf_counter() - started
        print(f"\n{split}, measured in {seconds:.1f} s\n\n{format_results(results)}", flush=True)


if __name__ == "__main__":
    main()
