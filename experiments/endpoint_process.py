"""`foodseg serve` as a user runs it: a process with a Ray of its own, watched and killed from outside.

with Endpoint(bench, "load", deploy_tree(bench, {"meals": run})) as endpoint:
    httpx.get(f"{endpoint.url}v1/models")
    endpoint.kill("Segmenter")
"""

import copy
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import yaml

from experiments.item_queue import FOODSEG, ROOT, RUNS, Bench, ItemError, say
from foodseg.bench.memory import command_name

START_SECONDS = 900.0  # on a machine that is busy with other work
STOP_SECONDS = 180.0
TITLE = "ray::ServeReplica:foodseg:"  # of the processes of replicas, as Ray names them


class Endpoint:
    """Starts with `with`, and ends with it, whatever happens; its logs go to `experiment-runs/serve-NAME`.

    Attributes: url: of its root. ray: address of its Ray. metrics: URL of its Prometheus metrics.
    """

    def __init__(self, bench: Bench, name: str, tree: Mapping[str, Any], env: Mapping[str, str] | None = None) -> None:
        self._bench = bench
        self._logs = bench.work / f"serve-{name}"
        self._tree = copy.deepcopy(dict(tree))
        self._env = dict(env or {})

    def __enter__(self) -> "Endpoint":
        shutil.rmtree(self._logs, ignore_errors=True)
        self._logs.mkdir(parents=True)
        self._ray_folder = Path(tempfile.mkdtemp(prefix="foodseg-"))  # Ray's sockets need a short path
        config = self._logs / "serve.yaml"
        config.write_text(yaml.safe_dump(self._tree, sort_keys=False), encoding="utf-8")
        self._bench.commands.append(f"foodseg serve {RUNS}/{self._logs.name}/serve.yaml --json")
        say(f"$ {self._bench.commands[-1]}")
        with (self._logs / "stderr.log").open("w") as stderr:
            self._server = subprocess.Popen(
                [*FOODSEG, "serve", str(config), "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={**os.environ, "RAY_TMPDIR": str(self._ray_folder), **self._env},
            )  # fmt: skip
        try:
            answer = self._first_line()
        except BaseException:
            self._stop()
            raise
        self.url, self.ray, self.metrics = answer["url"], answer["ray"], answer["metrics"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def processes(self) -> list[psutil.Process]:
        """Returns the server and every process below it."""
        server = psutil.Process(self._server.pid)
        return [server, *server.children(recursive=True)]

    def replicas(self, name: str) -> list[int]:
        """Returns the process ids of the replicas of a deployment, of those that still start too."""
        found = []
        for process in self.processes():
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue  # it has ended since it was listed
            if title.startswith(f"{TITLE}{name}") and process.is_running():
                found.append(process.pid)
        return sorted(found)

    def kill(self, name: str) -> int:
        """Ends a replica of a deployment as `kill -9` does; returns its process id."""
        pids = self.replicas(name)
        if not pids:
            raise ItemError(f"no process of {name} was found below the endpoint")
        os.kill(pids[0], signal.SIGKILL)
        say(f"killed {name} ({pids[0]})")
        return pids[0]

    def memory(self) -> dict[str, float]:
        """Returns MiB by kind of process, of pages that are not shared with others, and their sum as `all`."""
        sizes: dict[str, float] = {}
        for process in self.processes():
            try:
                # Ray's titles end with the method that is running
                name, info = command_name(process.cmdline()).partition(".")[0], process.memory_info()
            except psutil.Error:
                continue
            sizes[name] = sizes.get(name, 0.0) + (info.rss - info.shared) / 2**20
        return {**sizes, "all": sum(sizes.values())}

    def _first_line(self) -> dict[str, Any]:
        watch = threading.Timer(START_SECONDS, self._server.kill)  # readline would wait for ever
        watch.start()
        assert self._server.stdout is not None
        try:
            line = self._server.stdout.readline()
        finally:
            watch.cancel()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            said = (self._logs / "stderr.log").read_text(encoding="utf-8").strip()[-300:]
            raise ItemError(f"the endpoint does not start: {line.strip()[:200]} {said}") from None
        if "url" not in answer:
            raise ItemError(f"the endpoint does not start: {line.strip()[:300]}")
        return answer

    def _stop(self) -> None:
        below = self.processes()[1:] if self._server.poll() is None else []
        self._server.terminate()
        try:
            self._server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        _, left = psutil.wait_procs(below, timeout=30)
        for process in left:
            say(f"left behind: {process}")
            process.kill()
        for path in sorted(self._ray_folder.glob("ray/session_2*/logs/**/*")):
            if path.is_file() and path.stat().st_size and path.name.startswith(("worker-", "controller_", "replica_")):
                shutil.copyfile(path, self._logs / path.name)
        shutil.rmtree(self._ray_folder, ignore_errors=True)


class MemorySamples:
    """Watches an endpoint's memory while the body of `with` runs. peak: MiB of all its processes together."""

    def __init__(self, endpoint: Endpoint, every: float = 0.1) -> None:
        self._endpoint, self._every = endpoint, every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0.0

    def __enter__(self) -> "MemorySamples":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self.peak = max(self.peak, self._endpoint.memory()["all"])


def settled(endpoint: Endpoint, name: str, count: int, seconds: float = 300.0) -> None:
    """Waits until a deployment has `count` processes; raises where it has not in time."""
    deadline = time.monotonic() + seconds
    while len(endpoint.replicas(name)) != count:
        if time.monotonic() > deadline:
            raise ItemError(f"{name} has {len(endpoint.replicas(name))} replicas after {seconds:.0f} s, not {count}")
        time.sleep(0.5)


def replaced(endpoint: Endpoint, before: Mapping[str, Sequence[int]], seconds: float = 300.0) -> None:
    """Waits until each deployment has processes, and none of those before; raises where that is not so in time."""
    deadline = time.monotonic() + seconds
    waiting = list(before)
    while waiting:
        if time.monotonic() > deadline:
            raise ItemError(f"after {seconds:.0f} s, replicas of {', '.join(waiting)} were not replaced")
        time.sleep(0.5)
        now = {name: endpoint.replicas(name) for name in waiting}
        waiting = [name for name in waiting if not now[name] or set(now[name]) & set(before[name])]
