"""What a value means depends on its key: text keys take the text unchanged, from --set and from files alike."""

import json
import math
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from foodseg.cli import main as cli
from foodseg.config import load_config
from foodseg.config.literals import Typed, parsed, plain, read_yaml, write_yaml
from foodseg.config.load import read_tree, to_yaml
from foodseg.config.serve import parse_serve_config
from foodseg.errors import UserError
from foodseg.serve.deploy_file import IMPORT_PATH, read_deploy_file
from foodseg.tune.sweep_files import begin, read_ablation, read_sweep

# what YAML would make something else of
AS_TYPED = [
    "runs/my run #1", "#1", "runs/a: b", "runs/a:b", "2024-11-30", "2024-11-30 10:00:00", "20241130", "1e3", "1_000",
    "007", "0x1f", "1:30", ".5", "-1", ".inf", "no", "Yes", "off", "true", "null", "~", "~/runs", "[a]", "[a", "{a}",
    "{a: b}", 'runs/"q"', "runs/it's", '"a" and "b"', "'tis", "*star", "&amp", "&a b", "@home", "`x`", "%x", "!tag",
    "!!int 5", "| a", "> a", "- a", "? a", ": a", "a, b", "a=b=c", " a ", "runs/\u00fcn\u00ef \u5bff\u53f8", "\u202f",
    "caf\u00e9", "cafe\u0301", "C:\\runs\\a", "\\\\host\\share", "s3://b/my key+1 #2?region=eu", "file:///a%20b", "---",
    "...", "a\\nb", "=", "<<", "x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("text", [text for text in AS_TYPED if text.strip()])
def test_a_text_key_takes_what_is_typed(text: str, tmp_path: Path) -> None:
    resolved = load_config(None, [f"run.uri={text}"]).config
    assert resolved.run.uri == text
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(resolved), encoding="utf-8")
    assert load_config(str(path)).config == resolved  # a run, a checkpoint and a sweep keep it so


@pytest.mark.parametrize("text", ["2024-11-30", "1e3", "no", "null", "~", "007", "1:30", ".inf", "0x1f", "a:b", "a#1"])
def test_files_and_overrides_agree(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"run:\n  uri: {text}\ndata:\n  uris: [{{uri: {text}}}]\n  train_splits: [{text}]\n")
    config = load_config(str(path)).config
    assert (config.run.uri, config.data.uris[0].uri, config.data.train_splits) == (text, text, (text,))
    typed = load_config(None, [f"run.uri={text}", f"data.uris=[{{uri: {text}}}]", f"data.train_splits=[{text}]"])
    assert typed.config == config


def test_null_is_the_one_word_for_no_value(tmp_path: Path) -> None:
    assert load_config(None, ["data.val_split=null"]).config.data.val_split is None
    for text in ("null", "~", "Null", ""):
        path = tmp_path / "c.yaml"
        path.write_text(f"data:\n  val_split: {text}\n")
        assert load_config(str(path)).config.data.val_split is None
    assert load_config(None, ["train.mlflow_uri=none"]).config.train.mlflow_uri == "none"
    for text in ("None", "~", "NULL", "Null"):
        with pytest.raises(UserError, match=rf"^data\.val_split: found {text}: write null for no value, or \./{text}"):
            load_config(None, [f"data.val_split={text}"])


@pytest.mark.parametrize("quoted", ['"runs/a b"', "'runs/a b'"])
def test_quotes_around_the_whole_are_refused(quoted: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [f"run.uri={quoted}"])
    assert str(caught.value) == (
        f"run.uri: found {quoted}: what follows = is taken as it is, quotes included; leave them out: "
        "--set 'run.uri=runs/a b'"
    )


@pytest.mark.parametrize("text", ["", " ", "\t", "a\nb", "a\tb", "a\x00b", "a\x1b[31mb", "a\udce9b"])
def test_no_name_is_blank_or_holds_control_characters(text: str) -> None:
    for override in (f"run.uri={text}", f"model.text.table={text}", f"model.backbone={text}"):
        with pytest.raises(UserError, match=r"must not be blank|has the control character"):
            load_config(None, [override])


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("train.steps=1_000", 1000), ("train.steps=1e3", 1000), ("train.steps=+5", 5), ("train.epochs=.5", 0.5),
        ("eval.flip=no", False), ("eval.flip=on", True), ("eval.longest_side=null", None),
        ("eval.longest_side=~", None), ("scaling.num_workers=[1, 2]", (1, 2)), ("scaling.num_workers=2", 2),
        ("augment.scale=[1, 2e0]", (1, 2)), ("scaling.resources_per_worker={CPU: 2, no: 1}", {"CPU": 2, "no": 1}),
    ],
)  # fmt: skip
def test_other_keys_are_yaml(override: str, found: object) -> None:
    section, _, name = override.partition("=")[0].partition(".")
    assert getattr(getattr(load_config(None, [override]).config, section), name) == found


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.steps=010", "train.steps: found 010, which YAML takes for 8: write the number in decimal digits"),
        ("train.steps=1:30", "train.steps: found 1:30, which YAML takes for 90: write the number in decimal digits"),
        ("train.steps=0x10", "train.steps: found 0x10, which YAML takes for 16: write the number in decimal digits"),
        ("optim.lr=1:30.5", "optim.lr: found 1:30.5, which YAML takes for 90.5: write the number in decimal digits"),
        ("train.steps=yes", "train.steps: must be a whole number or null, found 'yes'"),
        ("optim.lr=on", "optim.lr: must be a number, found 'on'"),
        ("optim.lr=2024-11-30", "optim.lr: must be a number, found '2024-11-30'"),
        ("optim.lr=1,5", "optim.lr: must be a number, found '1,5'"),
        ("eval.flip=2024-11-30", "eval.flip: must be true or false, found '2024-11-30'"),
        ("augment.scale=[yes, 2]", "augment.scale: must be a list of 2 numbers, found ['yes', 2]"),
        ("train.steps=5 # five", "train.steps: found '5 # five', of which '# five' would be lost: leave it out"),
        ("train.steps=#5", "train.steps: found '#5', of which '#5' would be lost: leave it out"),
        ("train.steps={a: 1", "train.steps: found '{a: 1', which is not valid YAML: write numbers as 3e-4, lists as "
         "[a, b] with quotes around what has blanks or punctuation, mappings as {a: 1}"),
        ("data.train_splits=[a #1, b]", "data.train_splits: found '[a #1, b]', which is not valid YAML: write numbers "
         "as 3e-4, lists as [a, b] with quotes around what has blanks or punctuation, mappings as {a: 1}"),
        ("data.train_splits=[&a , b]", "data.train_splits: found '[&a , b]', which is not valid YAML: write numbers "
         "as 3e-4, lists as [a, b] with quotes around what has blanks or punctuation, mappings as {a: 1}"),
        ("data.train_splits=[a] # b", "data.train_splits: found '[a] # b', of which '# b' would be lost: leave it out"),
        ("eval.weights=None", "eval.weights: must be 'student' or 'ema', found 'None'"),
        ("eval.restrict=null", "eval.restrict: must be 'none' or 'soft' or 'hard', found 'null'"),
    ],
)  # fmt: skip
def test_unclear_values_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    assert str(caught.value) == sentence


def test_an_unclear_number_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("train:\n  steps: 010\n")
    with pytest.raises(UserError) as caught:
        load_config(str(path))
    assert str(caught.value).startswith(f"{path}: train.steps: found 010, which YAML takes for 8")


def test_a_later_override_may_go_into_an_earlier_one() -> None:
    config = load_config(None, ["scaling.resources_per_worker={CPU: 1}", "scaling.resources_per_worker.no=2"]).config
    assert config.scaling.resources_per_worker == {"CPU": 1, "no": 2}


@pytest.mark.parametrize("text", [text for text in AS_TYPED if text.strip()])
def test_config_show_says_which_text_it_is(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(["config", "show", "--set", f"run.uri={text}"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("run.uri = "))
    shown = line.removeprefix("run.uri = ").removesuffix("  # --set")
    assert json.loads(shown) == text and (text in line or {'"', "\\"} & set(text))
    assert cli.run(["config", "show", "--yaml", "--set", f"run.uri={text}"]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config(str(tmp_path / "shown.yaml")).config.run.uri == text


# --- the other files ---

TEXTS = ["2024-11-30", "1e3", "no", "null", "007", "a:b"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_sweep_keeps_texts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    space = f"  fusion:\n    options:\n      {text}: {{model.backbone: {text}}}\n      none: {{}}\n"
    space += f"  model.weights:\n    choice: [{text}1, b]\n    when: {{fusion: {text}}}\n"
    space += "  train.micro_batch:\n    choice: [1, 2]\n    when: {model.weights: b}\n"
    path.write_text(f"sweep:\n  uri: {text}\nspace:\n{space}config:\n  data:\n    uri: {text}\n")
    plan = read_sweep(str(path), [])
    assert (plan.sweep.uri, plan.base.data.uri) == (text, text)
    fusion, weights, batch = plan.space.hyperparameters
    assert list(fusion.choices) == [text, "none"] and fusion.choices[text] == {"model.backbone": text}
    assert list(weights.choices.values()) == [{"model.weights": f"{text}1"}, {"model.weights": "b"}]
    assert weights.when == {"fusion": (text,)} and batch.when == {"model.weights": ('"b"',)}
    plan = read_sweep(str(path), [f"sweep.uri={text} #2", f"config.data.uri={text} #3"])
    assert (plan.sweep.uri, plan.base.data.uri) == (f"{text} #2", f"{text} #3")
    begin(str(tmp_path / "out"), "sweep.yaml", plan.given, False)
    begin(str(tmp_path / "out"), "sweep.yaml", plan.given, True)  # what was written is what is given
    again = read_sweep(str(tmp_path / "out" / "sweep.yaml"), [])
    assert again.given == plan.given and again.space == plan.space


@pytest.mark.parametrize("text", TEXTS)
def test_an_ablation_keeps_texts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    variants = f"  {text}: {{}}\n  peer: {{predictions: {text}}}\n  loss: {{loss.dice: 1, model.backbone: {text}}}\n"
    path.write_text(
        f"ablation:\n  subsets: [{text}]\nvariants:\n{variants}contrasts:\n  {text}: [loss, {text}]\nconfig:\n"
    )
    plan = read_ablation(str(path), [])
    assert list(plan.variants) == [text, "peer", "loss"] and plan.contrasts == {text: ("loss", text)}
    assert plan.variants["peer"].predictions == str(Path(text).absolute())
    assert plan.variants["loss"].settings == {"loss.dice": 1, "model.backbone": text}
    assert plan.ablation.subsets == (str(Path(text).absolute()),)


@pytest.mark.parametrize("text", TEXTS)
def test_the_endpoint_keeps_texts(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foodseg.serve.deploy_file.resolve_checkpoint", lambda uri: None)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "serve.yaml"
    path.write_text(
        f"http_options: {{request_timeout_s: 80}}\napplications:\n- import_path: {IMPORT_PATH}\n"
        f"  args: {{segmenter: {{models: {{{text.replace(':', '')}: {text}}}}}, http: {{port: 9000}}}}\n"
        f"  deployments: [{{name: Segmenter, num_replicas: 2, user_config: {{models: {{a: {text}}}}}}}]\n"
    )
    deploy = read_deploy_file(str(path), [f"http.keys_file=keys #{text}"])
    assert deploy.config.segmenter.models == {text.replace(":", ""): str(tmp_path / text)}
    assert deploy.config.http.keys_file == str(tmp_path / f"keys #{text}") and deploy.config.http.port == 9000
    options = deploy.tree["applications"][0]["deployments"][0]
    assert options == {"name": "Segmenter", "num_replicas": 2, "user_config": {"models": {"a": text}}}
    assert deploy.tree["http_options"]["request_timeout_s"] == 80
    typed = read_deploy_file(None, [f"segmenter.models.a={text} #1"]).config
    assert typed.segmenter.models == {"a": str(tmp_path / f"{text} #1")}
    assert parse_serve_config({"segmenter": {"models": Typed(f"{{a: {text}}}")}}).segmenter.models == {"a": text}


BY_LOOKS: list[tuple[str, object]] = [
    ("1e-4", 1e-4), ("1e3", 1e3), ("1E5", 1e5), ("3e+2", 300.0), ("-.5e-3", -5e-4), ("6.02e23", 6.02e23), (".5", 0.5),
    ("5.", 5.0), ("1.e3", 1e3), ("12e03", 12e3), ("+5", 5), ("-1", -1), ("0", 0), ("-0", 0), ("007", 7), ("010", 8),
    ("0x1f", 31), ("0b11", 3), ("1_000", 1000), ("1_000.5", 1000.5), ("20241130", 20241130), ("1:30", 90),
    ("1:30.5", 90.5), ("-.Inf", -math.inf), ("null", None), ("Null", None), ("NULL", None), ("~", None), ("", None),
    ("true", True), ("TRUE", True), ("false", False), ("yes", True), ("no", False), ("on", True), ("Off", False),
    ("2024-11-30", date(2024, 11, 30)), ("2024-11-30 10:00:00", datetime(2024, 11, 30, 10)), ("'1'", "1"),
    ('"no"', "no"), ("a #1", "a"), ("[1, no, 1e-4]", [1, False, 1e-4]), ("{a: 1, b: ~}", {"a": 1, "b": None}),
    ("!!str 5", "5"),
    *((text, text) for text in ("0o17", "nan", "inf", "none", "None", "y", "n", "2024-13-45", "s3://b/k#1", "=", "a b",
                                "0.1.2", "1,5", "1e", "e3", "_1", "--")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), BY_LOOKS)
def test_what_an_unquoted_value_means_by_its_looks(text: str, value: object) -> None:
    found = plain(read_yaml(f"a: {text}"))["a"]
    assert found == value and type(found) is type(value)
    if not isinstance(value, date):  # what is written is what every reader of YAML gives back
        written = write_yaml({"a": value, "b": text})
        assert yaml.safe_load(written) == plain(read_yaml(written)) == {"a": value, "b": text}


def test_reading_and_writing_yaml() -> None:
    tree: dict[str, Any] = {"a": ["1e3", "no", "2024-11-30", "null", 1e3, False, None, "3e-4", 3e-4], "no": {"1": "x"}}
    assert plain(read_yaml(write_yaml(tree))) == tree
    assert plain(read_yaml("a: &x {b: 1, c: no}\nd:\n  <<: *x\n  c: 2024-13-45\n")) == {
        "a": {"b": 1, "c": False},
        "d": {"b": 1, "c": "2024-13-45"},
    }
    assert plain(parsed(Typed("[1, no, '1']"))) == [1, False, "1"]
    assert read_yaml("") is None


def test_a_tree_of_a_file_is_text_until_its_keys_are_known(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: 2024-11-30\nb:\n- no\n- 'no'\n")
    assert read_tree(str(path)) == {"a": "2024-11-30", "b": ["no", "no"]}
    assert plain(read_tree(str(path)))["b"] == [False, "no"]
