"""`foodseg serve` from start to stop: a Ray of its own, a swap from another terminal, no process left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from foodseg import storage
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.checkpoint.served import held
from foodseg.cli.main import run
from foodseg.serve.http.api_keys import is_loopback
from foodseg.serve.served_model import checkpoint_sha
from tests.support.tiny_checkpoints import free_port, meal, png, spoil, write_checkpoint

ROOT = Path(__file__).parents[2]
START_SECONDS = 240


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_serve_swap_and_stop(tmp_path: Path) -> None:
    second, bad = (write_checkpoint(tmp_path / name, seed) for seed, name in enumerate(("b", "bad"), start=1))
    spoil(bad)
    # nothing names the model: the newest run in runs/ is found
    first = write_checkpoint(Path(checkpoint_uri(str(tmp_path / "runs" / "first"), 1)), 0)
    storage.write_json(f"{tmp_path}/runs/first/last.json", {"step": 1, "checkpoint": "checkpoints/step-00000001"})
    command = [sys.executable, "-m", "foodseg", "serve", "--json", "--set", f"http.port={free_port()}"]
    # with the token that Ray makes for what it starts, as outside of tests
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment.pop("RAY_AUTH_MODE", None)
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watch = threading.Timer(START_SECONDS, server.kill)  # readline would wait for ever
    watch.start()
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(server.stderr or ()))
    reader.start()
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        watch.cancel()
        assert line, said
        endpoint = json.loads(line)
        deadline = time.monotonic() + 10  # the other pipe is read by a thread
        while not any("the endpoint is ready" in one for one in said) and time.monotonic() < deadline:
            time.sleep(0.05)
        for part in ("model: runs/first", "no Segment Anything", "starting Ray", "Segmenter is ready", "s left"):
            assert any(part in one for one in said), (part, said)
        files = {"image": ("meal.png", png(meal(1, 72, 96)))}
        answer = httpx.post(f"{endpoint['url']}v1/segment", files=files, timeout=60).raise_for_status().json()
        assert answer["model"] == {"name": "meals", "sha": checkpoint_sha(first)}
        _ask_what_serve_would_fail_at(endpoint["url"])
        assert "ray_foodseg_" in _metrics(endpoint["metrics"])
        for checkpoint, code in ((bad, 2), (second, 0)):
            swap = [sys.executable, "-m", "foodseg", "serve", "swap", "meals", checkpoint, "--json"]
            done = subprocess.run(
                [*swap, "--address", endpoint["ray"]], env=environment, capture_output=True, text=True, timeout=200
            )
            assert done.returncode == code, done.stderr
            result = json.loads(done.stdout)
        assert result["sha"] == checkpoint_sha(second)
        assert held(str(tmp_path / "runs" / "first")) == {"step-00000001"}
        children = psutil.Process(server.pid).children(recursive=True)
        assert _listening_to_others([psutil.Process(server.pid), *children]) == []
        quiet, began = len(said), time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=90) == 0, said
        assert time.monotonic() - began < 30  # about 3 seconds; a busy machine takes longer
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
        reader.join(30)
        assert len(said[quiet:]) == 1 and "stopping" in said[quiet], said[quiet:]
    finally:
        watch.cancel()
        if server.poll() is None:
            server.terminate()
            server.wait(timeout=60)


def _listening_to_others(processes: list[psutil.Process]) -> list[str]:
    """Returns the addresses that other machines could connect to."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN and not is_loopback(one.laddr.ip.removeprefix("::ffff:")):
                    found.append(f"{one.laddr.ip}:{one.laddr.port} {process.cmdline()[:1]}")
    return found


def _ask_what_serve_would_fail_at(url: str) -> None:
    """Headers that Serve's proxy reads itself: one that is not UTF-8, and an impossible time limit."""
    for name, value in (("X-Request-ID", b"\xe4"), ("X-Session-ID", b"\xff"), ("X-Request-Timeout-Seconds", b"1e-6")):
        answer = httpx.get(f"{url}v1/models", headers={name: value}, timeout=60)
        assert answer.status_code == 200, (name, answer.text)


def _metrics(url: str) -> str:
    """Ray's agent of this node gathers the metrics of its processes every few seconds."""
    for _ in range(60):
        text = httpx.get(url, timeout=30).text
        if "ray_foodseg_" in text:
            return text
        threading.Event().wait(0.5)
    return ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "segmenter.model=x"], "segmenter.models"),  # names the nearest key
        (["--set", "segmenter.models.meals=none"], "neither a checkpoint"),
        (["--set", "http.host=0.0.0.0"], "needs API keys"),
        (["none.yaml"], "none.yaml"),
        (["swap", "meals", "none"], "neither a checkpoint"),
    ],
)
def test_what_is_refused_before_ray_starts(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOODSEG_API_KEYS", raising=False)
    assert run(["serve", *arguments]) == 2
    assert sentence in capsys.readouterr().err
