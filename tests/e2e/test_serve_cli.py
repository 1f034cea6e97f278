"""`foodseg serve` as somebody starts it: a Ray of its own, a swap from another terminal, an end that leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from foodseg.cli import run
from foodseg.serve.served_model import checkpoint_sha
from tests.served import free_port, meal, png, spoil, write_checkpoint

ROOT = Path(__file__).parents[2]
START_SECONDS = 240


@pytest.mark.timeout(400)
def test_serve_swap_and_stop(tmp_path: Path) -> None:
    first, second, bad = (write_checkpoint(tmp_path / name, seed) for seed, name in enumerate(("a", "b", "bad")))
    spoil(bad)
    settings = [f"segmenter.models.meals={first}", f"http.port={free_port()}"]
    command = [sys.executable, "-m", "foodseg.cli", "serve", "--json", *(w for one in settings for w in ("--set", one))]
    # with the token that Ray makes for what it starts, as outside of tests
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment.pop("RAY_AUTH_MODE", None)
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    watch = threading.Timer(START_SECONDS, server.kill)  # readline would wait for ever
    watch.start()
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        watch.cancel()
        assert line, server.stderr.read() if server.stderr else ""
        endpoint = json.loads(line)
        files = {"image": ("meal.png", png(meal(1, 72, 96)))}
        answer = httpx.post(f"{endpoint['url']}v1/segment", files=files, timeout=60).raise_for_status().json()
        assert answer["model"] == {"name": "meals", "sha": checkpoint_sha(first)}
        _ask_what_serve_would_fail_at(endpoint["url"])
        assert "ray_foodseg_" in _metrics(endpoint["metrics"])
        for checkpoint, code in ((bad, 2), (second, 0)):
            swap = [sys.executable, "-m", "foodseg.cli", "serve", "swap", "meals", checkpoint, "--json"]
            done = subprocess.run(
                [*swap, "--address", endpoint["ray"]], env=environment, capture_output=True, text=True, timeout=200
            )
            assert done.returncode == code, done.stderr
            result = json.loads(done.stdout)
        assert result["sha"] == checkpoint_sha(second)
        children = psutil.Process(server.pid).children(recursive=True)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=90) == 0, server.stderr.read() if server.stderr else ""
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
    finally:
        watch.cancel()
        if server.poll() is None:
            server.terminate()
            server.wait(timeout=60)


def _ask_what_serve_would_fail_at(url: str) -> None:
    """Headers that Serve's proxy reads for itself: not UTF-8, and a limit of time that nothing can keep."""
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
