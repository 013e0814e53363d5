"""The wheel's contents and the imports of the compute process."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("tensorflow", "seqio", "torch", "t5x", "transformers")


def sources():
    return sorted((ROOT / "p5jax").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_source_imports_tensorflow_seqio_or_torch():
    for path in sources():
        heavy = {name for name in imported(path) if name.split(".")[0] in HEAVY}
        assert not heavy, f"{path} imports {heavy}"


def test_compute_process_runs_without_tensorflow_seqio_and_torch(world, tmp_path):
    """Train, rank and report where importing any of them raises.

    The training is that of tests/pipeline/test_shards.py, whose compiled program is used again.
    """
    program = f"""
import importlib.machinery, sys
class Forbid:
    # Each of them is installed, as far as a look for it tells, and raises when imported.
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY!r}:
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise RuntimeError("imported " + module.__name__)
sys.meta_path.insert(0, Forbid())
from p5jax.cli.main import main
binds = ["models/tiny.gin", "--gin.T5Config.emb_dim=16", "--gin.T5Config.num_encoder_layers=1"]
binds += ["--gin.T5Config.num_decoder_layers=1", "--gin.T5Config.mlp_dim=16"]
binds += ["--gin.STEPS=4", "--gin.RunConfig.vocabulary_size=400", "--gin.BATCH_SIZE=4"]
binds += ["--gin.ValidationConfig.rank_users=0", "--gin.ValidationConfig.examples=8"]
binds += ["--gin.TrainConfig.best_metric=validation/loss", "--gin.TrainConfig.best_mode=min"]
binds += ["--gin.PipelineConfig.source_lengths=(128,)"]
binds += ["--gin.DATASET={world.path}"]
run = {str(tmp_path / "run")!r}
binds += ["--gin.RUN_DIR=" + run]
assert main(["train", "--gin_file=runs/sequential.gin", "--gin_file", *binds]) == 0
assert main(["recommend", run, "--user", {world.user_keys[0]!r}, "-k", "3"]) == 0
assert main(["report", run]) == 0
loaded = [n for n in {HEAVY!r} if n in sys.modules]
assert not loaded, loaded
print("clean")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.endswith("clean\n"), done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), "."]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("p5jax-*.whl"))


def test_wheel_holds_the_code_the_prompts_and_the_gin_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in sources()}
    expected |= {"p5jax/prompts/amazon.toml", "p5jax/prompts/yelp.toml", "p5jax/py.typed"}
    gin_files = (ROOT / "gin").rglob("*.gin")
    expected |= {f"p5jax/configs/{path.relative_to(ROOT / 'gin')}" for path in gin_files}
    assert expected <= names, expected - names
    # An importable `gin` would shadow gin-config for everybody who installs this.
    assert not [name for name in names if name.startswith(("gin/", "tests/", "tasks/"))]
    assert "p5jax/configs/__init__.py" not in names
    assert not (ROOT / "gin" / "__init__.py").exists()


def test_installed_copy_finds_its_gin_files(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = "from p5jax.core import config; print(config.find_gin_file('runs/quickstart.gin'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout.strip() == str(tmp_path / "p5jax" / "configs" / "runs" / "quickstart.gin")
