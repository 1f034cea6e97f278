"""Which run directories a run may begin or resume in, and that its configuration is read once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from foodseg import storage
from foodseg.config import load_config
from foodseg.config.load import from_yaml
from foodseg.errors import UserError
from foodseg.storage.writer_lock import in_use
from foodseg.train import run as run_module
from foodseg.train.run import begin_run, check_run, prepare_run
from tests.support.synthetic_set import synthetic_config, write_synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("data"), val=2)


def test_a_run_that_another_command_writes_is_refused(data, tmp_path):
    config = synthetic_config(data, tmp_path / "r")
    with in_use(config.run.uri, "run.uri"):
        for resume in (False, True):
            with pytest.raises(UserError, match=r"^run.uri .* is being written by another command"):
                check_run(config, resume=resume)
    run = check_run(config, resume=False)
    with in_use(config.run.uri, "run.uri"):
        begin_run(run, resume=False)  # the lock file is not a run
    with pytest.raises(UserError, match="is not empty"):
        begin_run(run, resume=False)  # somebody else was faster


def test_of_two_that_begin_a_run_at_the_same_moment_one_is_refused(data, tmp_path, monkeypatch):
    run = check_run(synthetic_config(data, tmp_path / "r"), resume=False)
    looked = threading.Barrier(2)
    monkeypatch.setattr(run_module, "_is_empty", lambda run_uri: looked.wait() >= 0)

    def begin(_):
        try:
            begin_run(run, resume=False)
        except UserError as error:
            return str(error)
        return "begun"

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(begin, range(2)))
    assert outcomes[0] == "begun" and "is not empty: give --resume" in outcomes[1]


def test_run_directory(data, tmp_path):
    config = synthetic_config(data, tmp_path / "r")
    prepare_run(config, resume=True)  # nothing there yet: a start
    assert load_config(str(tmp_path / "r" / "config.yaml")).config == config
    with pytest.raises(UserError, match=r"is not empty: give --resume to resume it, or another run.uri"):
        prepare_run(config, resume=False)
    prepare_run(config, resume=True)


def test_a_resumed_configuration_is_read_and_parsed_once(data, tmp_path, monkeypatch):
    config = synthetic_config(data, tmp_path / "r")
    prepare_run(config, resume=False)
    parsed = []
    monkeypatch.setattr(run_module, "from_yaml", lambda text, where: parsed.append(where) or from_yaml(text, where))
    run = check_run(config, resume=True)
    begin_run(run, resume=True)
    assert parsed == [str(tmp_path / "r" / "config.yaml")]
    storage.write_text(parsed[0], "another command wrote this")
    with pytest.raises(UserError, match="was changed while this command began: run it again"):
        begin_run(run, resume=True)
    assert storage.read_text(parsed[0]) == "another command wrote this"


def test_another_configuration_is_refused_naming_the_keys(data, tmp_path):
    prepare_run(synthetic_config(data, tmp_path / "r"), resume=False)
    harmless = ["train.log_every=3", "train.micro_batch=2", "scaling.num_workers=2", "train.keep_checkpoints=5"]
    prepare_run(synthetic_config(data, tmp_path / "r", *harmless), resume=True)
    config = synthetic_config(data, tmp_path / "r")
    kept = config.model_copy(update={"train": config.train.model_copy(update={"latent_cache": "elsewhere"})})
    assert run_module._changed_keys(config, kept) == []
    with pytest.raises(UserError, match=r"optim.lr was 0.001, now 0.5; train.seed was 0, now 7; give the same one"):
        prepare_run(synthetic_config(data, tmp_path / "r", "optim.lr=0.5", "train.seed=7"), resume=True)


def test_a_folder_that_is_not_a_run(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files but no config.yaml"):
        prepare_run(synthetic_config(data, tmp_path), resume=True)
