"""A run ready to answer: every program that requests need is compiled before the first one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Progress, Report
from p5jax.inference.ranking import given_rows
from p5jax.serving.http.bodies import MOST_ITEMS, Ask, Explain, Generate, Score
from p5jax.serving.question import Case
from p5jax.serving.ranker import Levels, Prompted
from p5jax.serving.recommender import EXPLAINED, Recommender
from p5jax.serving.settings import BulkConfig, ServeConfig
from p5jax.training.checkpoints import params_fingerprint

_SOURCES = (32, 64, 128, 256)  # lengths of prompts, and the longest of the run
Work = tuple[BulkConfig, Prompted]


class Engine:
    """A recommender behind the requests of a service."""

    def __init__(self, recommender: Recommender, config: ServeConfig):
        run = recommender.run
        longest = run.family_config.max_source
        most = max(int(np.diff(run.dataset.offsets).max()), MOST_ITEMS["history"])
        named = most + max(MOST_ITEMS["exclude"], MOST_ITEMS["candidates"])
        recommender.levels = Levels(
            (*(length for length in _SOURCES if length < longest), longest),
            excluded=named,
            candidates=named,  # as many, so that one program serves both
            items=MOST_ITEMS["items"],
        )
        self.recommender, self.config = recommender, config
        self.prompts = recommender.next_item_prompts(config.prompts)
        self._items = [
            f"{title or ''} {key}".casefold()
            for title, key in zip(run.dataset.titles, run.dataset.item_keys, strict=True)
        ]
        self._users = [
            f"{name} {key}".casefold()
            for name, key in zip(run.dataset.user_names, run.dataset.user_keys, strict=True)
        ]
        self.sizes = sorted({1, *(-(-config.rows // part) for part in (4, 2, 1))})

    def warm(self, report: Report, wanted: Callable[[], bool]) -> None:
        """Compile what requests need: all rows, lengths of prompts and of beginnings of answers.

        It ends early once it is not `wanted` any more.
        """
        shapes, run = list(self._shapes()), self.recommender.run
        progress = Progress("compiling", "shapes", len(shapes), report)
        for config, prompted in shapes:
            if not wanted():
                return
            self.recommender.ranked([prompted] * config.batch_size, config)
            among = prompted.case._replace(candidates=prompted.case.history[:1])
            self.recommender.ranked([Prompted(among, prompted.prompts)], config)
            if config.batch_size == 1:
                asked = prompted.case.history[:1]
                self.recommender.scores([prompted], asked, config)
                whole = replace(config, method="exact", k=run.dataset.num_items)
                self.recommender.ranked([prompted], whole)
            progress.add(1)
        for length in self.recommender.levels.source:
            if wanted():
                prompt = [run.vocabulary.eos_id] * length
                for no_repeat in (0, EXPLAINED) if self.recommender.explains else (0,):
                    self.recommender.answer(prompt, no_repeat=no_repeat)

    def _shapes(self) -> Iterator[Work]:
        """One case for each shape of what is computed."""
        recommender, run = self.recommender, self.recommender.run
        vocabulary = run.vocabulary
        lengths = [len(vocabulary.encode(id)) for id in run.dataset.item_ids]
        longest = np.argsort(lengths)[::-1][: MOST_ITEMS["history"]]
        seen: set[Hashable] = set()
        for names in self.answerable():
            for count in range(1, len(longest) + 1):
                case = Case(run.dataset.num_users, longest[:count])
                (prompted,) = recommender.prompted([case], names)
                shape: list[Hashable] = [recommender.family("sequential").lists(n) for n in names]
                for prompt in prompted.prompts:
                    given = given_rows([prompt.given], vocabulary)
                    shape.append(recommender.levels.fit(len(prompt.tokens)))
                    shape.append(None if given is None else given.shape[1])
                if tuple(shape) in seen:
                    continue
                seen.add(tuple(shape))
                for size in self.sizes:
                    for memory in {False, recommender.memory is not None}:
                        yield self._settings(names, 1, True, memory, size), prompted

    def answerable(self) -> list[tuple[str, ...]]:
        """The prompts that may be asked for: those of the service, and each of the run's alone."""
        if self.recommender.triggers:
            return [self.prompts]
        single = [(name,) for name in self.recommender.catalogue_prompts()]
        return [self.prompts, *(each for each in single if each != self.prompts)]

    def _settings(
        self, prompts: tuple[str, ...], k: int, exclude_history: bool, memory: bool, rows: int = 1
    ) -> BulkConfig:
        return BulkConfig(
            beam=self.config.beam,
            memory=memory,
            k=k,
            prompts=prompts,
            exclude_history=exclude_history,
            batch_size=rows,
        )

    def work(self, body: Ask) -> Work:
        """Look up what is asked; UserError for what is unknown or beyond the service."""
        known = self.answerable()
        prompts = body.prompts or self.prompts
        if prompts not in known:
            for name in prompts:
                self.recommender.family("sequential").template(name)
            listed = " or ".join("+".join(each) for each in known)
            raise UserError(f"prompts: found {'+'.join(prompts)}, expected {listed}")
        k, exclude_history = getattr(body, "k", 1), getattr(body, "exclude_history", True)
        most = min(self.config.beam, self.recommender.run.dataset.num_items)
        if not 1 <= k <= most:
            raise UserError(f"k: found {k}, expected 1 to {most}")
        memory = body.memory and self.recommender.memory is not None
        config = self._settings(prompts, k, exclude_history, memory)
        return config, self.recommender.prompted(self.recommender.cases([body]), prompts)[0]

    def recommend(self, works: Sequence[Work]) -> list[dict[str, Any]]:
        """Answer bodies of one kind, as many as the service has rows at most."""
        config = works[0][0]
        size = next(size for size in self.sizes if size >= len(works))
        asked = [prompted for _, prompted in works]
        ranking = self.recommender.ranked(asked, replace(config, batch_size=size))
        return [
            {**asdict(answer), "prompts": config.prompts, "memory": config.memory}
            for answer in self.recommender.recommended(ranking)
        ]

    def score(self, bodies: Sequence[Score]) -> list[dict[str, Any]]:
        """Answer bodies of /v1/score."""
        return [
            {
                "items": [
                    asdict(each)
                    for each in self.recommender.placed(
                        body, body.items, prompts=body.prompts or self.prompts, memory=body.memory
                    )
                ]
            }
            for body in bodies
        ]

    def explain(self, bodies: Sequence[Explain]) -> list[dict[str, Any]]:
        """Answer bodies of /v1/explain."""
        found: list[dict[str, Any]] = []
        for body in bodies:
            prompts = body.prompts or self.prompts
            views = self.recommender.views(body, prompts, beam=self.config.beam)
            found.append({"prompts": [asdict(view) for view in views]})
            if body.item is not None:
                found[-1]["explanation"] = self.recommender.explain(
                    body, body.item, feature=body.feature
                )
        return found

    def generate(self, bodies: Sequence[Generate]) -> list[dict[str, Any]]:
        """Answer bodies of /v1/generate."""
        return [{"text": self.recommender.generate(body.text)} for body in bodies]

    def search(self, what: str, query: str, limit: int) -> list[dict[str, Any]]:
        """Return items or users whose names or keys have all words of a query."""
        dataset = self.recommender.run.dataset
        words = query.casefold().split()
        named = self._items if what == "items" else self._users
        hits = [at for at, text in enumerate(named) if all(word in text for word in words)]
        found = sorted(hits, key=lambda at: not named[at].startswith(query.casefold()))[:limit]
        if what == "items":
            return [self._item(item) for item in found]
        return [
            {
                "user": dataset.user_keys[user],
                "name": dataset.user_names[user],
                "history": [self._item(item) for item in dataset.sequence(user).tolist()],
            }
            for user in found
        ]

    def _item(self, item: int) -> dict[str, Any]:
        dataset = self.recommender.run.dataset
        return {"item": dataset.item_keys[item], "title": dataset.titles[item]}

    def model(self) -> dict[str, Any]:
        """Return what is served, for /v1/model."""
        recommender, run = self.recommender, self.recommender.run
        templates = recommender.family("sequential").templates
        return {
            "run": run.path.name,
            "dataset": run.dataset.name,
            "users": run.dataset.num_users,
            "items": run.dataset.num_items,
            "leaky_item_ids": run.dataset.leaky,
            "parameters": params_fingerprint(run.params),
            "memory": recommender.memory is not None,
            "explains": recommender.explains,
            "most_k": min(self.config.beam, run.dataset.num_items),
            "most_items": MOST_ITEMS,
            "prompts": [
                {
                    "name": "+".join(names),
                    "text": " / ".join(templates[name].inputs for name in names),
                    "seen": all(templates[name].seen for name in names),
                }
                for names in self.answerable()
            ],
        }
