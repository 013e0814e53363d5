"""The small world's tasks, and its families without SeqIO."""

from __future__ import annotations

import pytest
from native_stream import CONFIG, EPOCHS, SEED


@pytest.fixture(scope="session")
def vocabulary_folder(world_vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    world_vocabulary.save(folder)
    return folder


@pytest.fixture(scope="session")
def small(world, vocabulary_folder):
    """The world's tasks, registered."""
    import p5jax.tasks

    options = {"config": CONFIG, "epochs": EPOCHS, "seed": SEED, "name": "small"}
    return p5jax.tasks.register(world.path, vocabulary_folder, **options)


@pytest.fixture(scope="session")
def native(world, world_vocabulary):
    """The world's families, made without SeqIO."""
    from p5jax.prompts.families import make_families
    from p5jax.prompts.template_files import load_templates

    return make_families(world, load_templates("amazon"), world_vocabulary, CONFIG)
