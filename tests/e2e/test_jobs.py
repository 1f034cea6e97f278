"""`ray job submit -- python jobs/<verb>.py` against a real head with token authentication: prepare, train, evaluate."""

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.find import newest_checkpoint, resolve_checkpoint
from foodseg.config import load_config
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import write_meals
from tests.support.sweep_files import write_sweep
from tests.support.tiny_world import TINY_MODEL, set_options

pytestmark = pytest.mark.chaos

REPOSITORY = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")
START_SECONDS, JOB_SECONDS, STOP_SECONDS = 90, 400, 5
MAX_UPLOAD = 20 * 2**20


@dataclass(frozen=True)
class Head:
    """A running head: `dashboard` takes jobs, `gcs` takes drivers; `env` carries the token."""

    dashboard: str
    gcs: str
    env: dict[str, str]

    def submit(self, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """Runs `ray job submit` in the repository and waits for the job."""
        command = [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--", *entrypoint]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=self.env,
            timeout=JOB_SECONDS,
            check=False,
        )


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="fs-", dir="/tmp"))  # short: unix sockets live below it
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, dashboard, agent, metrics, client = free_ports(5)
    inherited = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    env = {
        **inherited,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # jobs say `python`
    }
    command = [
        RAY, "start", "--head", "--block", f"--temp-dir={folder}/r", "--num-cpus=4", "--node-ip-address=127.0.0.1",
        f"--object-store-memory={200 * 2**20}", f"--port={port}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}",
    ]  # fmt: skip
    log = folder / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env, cwd=folder, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until_ready(process, address, token.read_text(), log)
        yield Head(address, f"127.0.0.1:{port}", env)
    finally:
        stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(process: subprocess.Popen[bytes], address: str, token: str, log: Path) -> None:
    """Waits until the jobs API answers to the token."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if jobs_status(address, token) == 200:
            return
        time.sleep(0.5)
    raise RuntimeError(f"Ray did not come up in {START_SECONDS} s: {log.read_text()[-2000:]}")


def jobs_status(address: str, token: str | None, job: bytes | None = None) -> int | None:
    """The answer to a list of the jobs that is asked for, or to a job (JSON) that is handed in."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/api/jobs/", headers=headers, data=job), timeout=5
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends `ray start` and what it started, each by its own id."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in children:
        if child.is_running():
            child.kill()
    psutil.wait_procs(children, timeout=5)


def submit_in_turn(head: Head, scripts: Sequence[Sequence[str | Path]]) -> str:
    """Returns what one job prints that runs Python scripts with their arguments, each after the one before."""
    return done(head.submit("bash", "-c", " && ".join(shlex.join(["python", *map(str, words)]) for words in scripts)))


def done(job: subprocess.CompletedProcess[str]) -> str:
    assert job.returncode == 0, (job.stdout + job.stderr)[-4000:]
    assert "Traceback" not in job.stdout + job.stderr, (job.stdout + job.stderr)[-4000:]
    return job.stdout


def test_what_is_uploaded_is_small(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(REPOSITORY), package, include_gitignore=True)

    assert package.stat().st_size < MAX_UPLOAD


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic meals, `meals`."""
    folder = tmp_path_factory.mktemp("jobs")
    write_meals(folder / "meals", train=12, test=2, seed=0, longest_side=64)
    return folder


@pytest.mark.timeout(600)
def test_prepare_train_and_evaluate_in_one_job(head: Head, folder: Path) -> None:
    """One submission, since each takes ten seconds on top of its work: the scripts run in turn, as a user's would."""
    prepared, run, scores = (folder / name for name in ("prepared", "run", "scores"))
    settings = set_options(
        *TINY_MODEL, f"data.uri={prepared}", f"run.uri={run}", "augment.longest_side=64", "augment.crop=64",
        "eval.longest_side=64", "train.steps=3", "train.global_batch=2", "scaling.num_workers=2",
        "scaling.resources_per_worker={CPU: 1}",
    )  # fmt: skip
    scripts = [
        ["jobs/prepare.py", folder / "meals", prepared],
        ["jobs/train.py", "--config", "jobs/configs/smoke.yaml", *settings],
        ["jobs/evaluate.py", run, "--data", prepared, "--split", "test", "--out", scores],
    ]

    said = submit_in_turn(head, scripts)

    manifest = read_manifest(str(prepared))
    assert sum(counts.images for counts in manifest.counts.values()) == 14 and manifest.counts["test"].images == 2
    newest = newest_checkpoint(str(run))
    assert newest is not None and load_checkpoint(newest, with_trainer=True).step == 3
    assert resolve_checkpoint(str(run)) == newest
    metrics = json.loads((scores / "metrics.json").read_text())
    assert metrics["step"] == 3 and metrics["images"] == 2
    accesses = (scores / "test_access.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in accesses] == ["opened", "scored"]
    assert all((scores / name).exists() for name in ("report.html", "report.md", "images.parquet"))
    assert "mIoU" in said


@pytest.mark.timeout(600)
def test_a_sweep_as_a_job(head: Head, folder: Path) -> None:
    prepared, sweep = folder / "swept", folder / "sweep"
    space, options = {"optim.lr": {"choice": [1e-2]}}, {"searcher": "grid", "trials": None, "scheduler": "none"}
    write_sweep(folder / "sweep.yaml", str(prepared), sweep, space=space, sweep=options)

    said = submit_in_turn(
        head, [["jobs/prepare.py", folder / "meals", prepared], ["jobs/tune.py", "--config", folder / "sweep.yaml"]]
    )

    assert "1 of 1 trials finished" in said
    assert load_config(str(sweep / "best.yaml")).config.data.uri == str(prepared)
    assert (sweep / "report.html").exists()


def test_a_job_that_fails_says_why(head: Head, tmp_path: Path) -> None:
    """The first command would write into the folder that Ray deletes with the job; the second finds nothing."""
    relative = shlex.join(["python", "-m", "foodseg", "data", "prepare", str(tmp_path), "prepared"])
    nowhere = shlex.join(["python", "jobs/prepare.py", str(tmp_path / "nowhere"), str(tmp_path / "out")])

    job = head.submit("bash", "-c", f"{relative}; echo relative: $?; exec {nowhere}")

    assert "DST 'prepared' is relative" in job.stdout + job.stderr and "relative: 2" in job.stdout
    assert job.returncode != 0 and "exit code 2" in job.stdout + job.stderr
    assert "nowhere does not exist or is empty" in job.stdout + job.stderr


def test_without_the_token_nobody_gets_in(head: Head, tmp_path: Path) -> None:
    entrypoint = json.dumps({"entrypoint": f"touch {tmp_path / 'mark'}"}).encode()
    for token in (None, "0" * 64):
        assert jobs_status(head.dashboard, token) in (401, 403)
        assert jobs_status(head.dashboard, token, entrypoint) in (401, 403)
    assert not (tmp_path / "mark").exists()
