"""`data prepare` that is killed (SIGKILL) resumes; of two at once one publishes: nothing is lost, nothing is twice."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.demo.synthetic import write_meals
from tests.conftest import BUCKET
from tests.support.drivers import kill_driver, wait_for

pytestmark = pytest.mark.chaos

TRAIN, TEST = 20, 4  # 12 batches of 2 images, then about 9 shards of 3
HELD = "val/part-00000.parquet"  # after all shards of train: at least 60 % of them


@dataclass(frozen=True)
class Undisturbed:
    """A source, and what became of it on a disk while nothing was killed; the tasks in the order of their results."""

    src: Path
    files: dict[str, bytes]
    audits: list[str]
    shards: list[str]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("whole")
    src, dst, log = folder / "meals", str(folder / "whole"), folder / "log"
    write_meals(src, train=TRAIN, test=TEST, seed=1, longest_side=64)
    (src / "images" / "synthetic__0002.jpg").write_bytes(b"no image")
    finish(begin(src, dst, log))
    listed = [stem for split in ("train", "test") for stem in (src / f"{split}.txt").read_text().split()]
    audits = [f"audit {first}" for first in listed[::2]]
    assert begun(log, "audit") == sorted(audits)
    return Undisturbed(src, files(dst), audits, begun(log, "shards"))


@pytest.fixture(params=["local", "s3"])
def dst(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "prepared")
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/prepared-{os.urandom(4).hex()}"


def begin(src: Path, dst: str, log: Path, *held: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.logged_prepare", str(src), dst, str(log), *held]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def finish(driver: subprocess.Popen[bytes]) -> str:
    said = driver.communicate(timeout=280)[1].decode()
    assert driver.returncode == 0, said
    return said


def files(dst: str) -> dict[str, bytes]:
    return {path: storage.read_bytes(storage.join(dst, path)) for path in storage.list_tree(dst)}


def stored(dst: str, stage: str) -> list[str]:
    """Results of finished tasks, by their names."""
    folders = [name for name in storage.list_names(dst) if name.startswith("v-1-")]
    return [name for folder in folders for name in storage.list_names(storage.join(dst, folder, ".work", stage))]


def begun(log: Path, stage: str) -> list[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return sorted(line for line in lines if line.startswith("audit ") == (stage == "audit"))


def kill_at(src: Path, dst: str, log: Path, held: str, stage: str, done: list[str]) -> str:
    """Kills the driver once the results `done` are there and the held task is under way; returns its stderr."""
    driver = begin(src, dst, log, held)

    def far_enough() -> bool:
        return held in begun(log, stage) and set(done) <= {name[: len(done[0])] for name in stored(dst, stage)}

    wait_for(lambda: driver.poll() is not None or far_enough(), 280)
    assert driver.poll() is None, driver.communicate()[1].decode()
    kill_driver(driver)
    return driver.communicate()[1].decode()


def test_killed_twice_it_ends_as_if_nothing_had_happened(undisturbed: Undisturbed, dst: str, tmp_path: Path) -> None:
    src, audits, shards = undisturbed.src, undisturbed.audits, undisturbed.shards
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    kill_at(src, dst, logs[0], audits[7], "audit", [f"{number:06d}" for number in range(7)])
    audited = [int(name) for name in stored(dst, "audit")]
    assert not [path for path in storage.list_tree(dst) if path.endswith(".parquet")] and 7 not in audited

    before_val = [name for name in shards if name.startswith("train/")]
    done = [f"train-{number:05d}" for number in range(len(before_val))]
    said = kill_at(src, dst, logs[1], HELD, "shards", done)
    assert f"checking images: resuming, {2 * len(audited)} of {TRAIN + TEST} are there" in said
    assert begun(logs[1], "audit") == sorted(name for number, name in enumerate(audits) if number not in audited)
    written = sorted("/part-".join(name.split("-")[:2]) + ".parquet" for name in stored(dst, "shards"))
    assert not storage.exists(storage.join(dst, "dataset.json")) and len(written) >= 0.6 * len(shards)

    said = finish(begin(src, dst, logs[2]))
    assert f"checking images: resuming, {TRAIN + TEST} of {TRAIN + TEST} are there" in said
    assert f"writing shards: resuming, {len(written)} of {len(shards)} are there" in said
    assert begun(logs[2], "audit") == []
    assert begun(logs[2], "shards") == sorted(set(shards) - set(written))
    # also the names of folder and shards, sizes, sha256, counts, findings
    assert files(dst) == undisturbed.files


def test_of_two_at_once_one_publishes_and_the_other_is_told(undisturbed: Undisturbed, dst: str, tmp_path: Path) -> None:
    """The slower one still writes shards while the other publishes and tidies up."""
    logs = [tmp_path / "slower.log", tmp_path / "faster.log"]
    drivers = [
        begin(undisturbed.src, dst, log, held) for log, held in zip(logs, (HELD, undisturbed.audits[0]), strict=True)
    ]
    wait_for(lambda: all(begun(log, "audit") for log in logs) or any(d.poll() is not None for d in drivers), 280)
    wait_for(lambda: HELD in begun(logs[0], "shards") or drivers[0].poll() is not None, 280)
    assert [driver.poll() for driver in drivers] == [None, None]
    Path(f"{logs[1]}.go").touch()
    finish(drivers[1])
    published = files(dst)

    Path(f"{logs[0]}.go").touch()
    said = drivers[0].communicate(timeout=280)[1].decode()
    assert f"UserError: {dst} has been prepared by another command meanwhile, and stays as that one wrote it" in said
    assert HELD in begun(logs[1], "shards")
    assert files(dst) == published == undisturbed.files
