"""`data prepare` that is killed (SIGKILL) resumes: nothing is done twice, nothing is lost, the shards are the same."""

import subprocess
import sys
from pathlib import Path

import pytest

from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import write_meals
from tests.support.drivers import kill_driver, wait_for

TRAIN, TEST = 20, 4  # 12 batches of 2 images, then about 9 shards of 3


def begin(src: Path, dst: Path, log: Path, *endless: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.logged_prepare", str(src), str(dst), str(log), *endless]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def finish(driver: subprocess.Popen[bytes]) -> str:
    said = driver.communicate(timeout=280)[1].decode()
    assert driver.returncode == 0, said
    return said


def stored(dst: Path, stage: str) -> list[str]:
    """Results of finished tasks, by their names."""
    return sorted(path.name for path in dst.glob(f"v-1-*/.work/{stage}/[0-9tv]*"))


def begun(log: Path, stage: str) -> list[str]:
    lines = log.read_text().splitlines()
    return sorted(line for line in lines if line.startswith("audit ") == (stage == "audit"))


def kill_at(src: Path, dst: Path, log: Path, endless: str, stage: str, done: list[str]) -> str:
    """Kills the driver once the results `done` are there and the endless task is under way; returns its stderr."""
    driver = begin(src, dst, log, endless)

    def far_enough() -> bool:
        return set(done) <= {name[: len(done[0])] for name in stored(dst, stage)} and endless in begun(log, stage)

    wait_for(lambda: driver.poll() is not None or (log.exists() and far_enough()), 280)
    assert driver.poll() is None, driver.communicate()[1].decode()
    kill_driver(driver)
    return driver.communicate()[1].decode()


@pytest.mark.chaos
def test_killed_twice_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    src, dst, whole = tmp_path / "meals", tmp_path / "killed", tmp_path / "whole"
    write_meals(src, train=TRAIN, test=TEST, seed=1, longest_side=64)
    (src / "images" / "synthetic__0002.jpg").write_bytes(b"no image")
    finish(begin(src, whole, tmp_path / "whole.log"))
    listed = [stem for split in ("train", "test") for stem in (src / f"{split}.txt").read_text().split()]
    names = [f"audit {first}" for first in listed[::2]]  # of the batches, in their order
    assert begun(tmp_path / "whole.log", "audit") == sorted(names)
    shards = begun(tmp_path / "whole.log", "shards")

    logs = [tmp_path / f"{number}.log" for number in range(3)]
    kill_at(src, dst, logs[0], names[7], "audit", [f"{number:06d}" for number in range(7)])
    audited = [int(name) for name in stored(dst, "audit")]
    assert not list(dst.glob("v-1-*/*/*.parquet")) and 7 not in audited

    before_val = [name for name in shards if name.startswith("train/")]
    done = [f"train-{number:05d}" for number in range(len(before_val))]
    said = kill_at(src, dst, logs[1], "val/part-00000.parquet", "shards", done)
    assert f"checking images: resuming, {2 * len(audited)} of {TRAIN + TEST} are there" in said
    assert begun(logs[1], "audit") == sorted(name for number, name in enumerate(names) if number not in audited)
    written = sorted("/part-".join(name.split("-")[:2]) + ".parquet" for name in stored(dst, "shards"))
    assert not (dst / "dataset.json").exists() and len(written) >= 0.6 * len(shards)

    said = finish(begin(src, dst, logs[2]))
    assert f"checking images: resuming, {TRAIN + TEST} of {TRAIN + TEST} are there" in said
    assert f"writing shards: resuming, {len(written)} of {len(shards)} are there" in said
    assert begun(logs[2], "audit") == []
    assert begun(logs[2], "shards") == sorted(set(shards) - set(written))
    # also the names of folder and shards, sizes, sha256, counts, findings
    assert read_manifest(str(dst)) == read_manifest(str(whole))
    assert files(dst) == files(whole)


def files(folder: Path) -> dict[str, bytes]:
    """Everything that was prepared, but for what a killed process leaves of a file that it was writing."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".foodseg-tmp-")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
