"""Settings of a search: their help, their values, and that they come without jax."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from p5jax.core.errors import UserError
from p5jax.triggers.settings import ABLATIONS, Layout, SearchConfig, SurrogateConfig

CONFIGS = (SearchConfig("sequential"), Layout(), SurrogateConfig())
SETTINGS = [(config, field) for config in CONFIGS for field in fields(config)]


@pytest.mark.parametrize(("config", "field"), SETTINGS, ids=lambda each: getattr(each, "name", ""))
def test_every_setting_has_help_and_takes_its_choices_alone(config, field):
    assert field.metadata["help"]
    choices = field.metadata.get("choices")
    if choices is None:
        return
    for choice in choices:
        assert getattr(replace(config, **{field.name: choice}), field.name) == choice
    with pytest.raises(UserError, match=f"{field.name}: found 'other', expected {choices[0]}"):
        replace(config, **{field.name: "other"})


def test_every_ablation_varies_a_setting_over_values_it_takes():
    settings = {field.name: config for config, field in SETTINGS}
    for name, values in ABLATIONS.items():
        for value in values:
            assert getattr(replace(settings[name], **{name: value}), name) == value


def test_settings_come_without_jax():
    program = (
        "import sys; import p5jax.triggers.settings;"
        "sys.exit(bool({'jax', 'flax', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
