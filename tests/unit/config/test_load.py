"""Reading a configuration: precedence, origins, and sentences that name the key, what was found and what is right."""

from pathlib import Path

import pytest

from foodseg.config import ExperimentConfig, load_config
from foodseg.config.load import config_hash, parse_config, to_yaml, with_eval_overrides, with_overrides
from foodseg.errors import UserError


def written(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text)
    return str(path)


def refusal(overrides: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        load_config(None, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        # unknown keys
        ("optim.lrr=1", "unknown key 'optim.lrr'; did you mean optim.lr?"),
        ("eval.weight=ema", "unknown key 'eval.weight'; did you mean eval.weights?"),
        ("optm.lr=1", "unknown key 'optm'; did you mean optim?"),
        ("lr=1", "unknown key 'lr'; did you mean optim.lr?"),
        ("weights=1", "unknown key 'weights'; did you mean model.weights or model.vit.weights or eval.weights?"),
        ("data.crop=64", "unknown key 'data.crop'; did you mean augment.crop?"),
        (
            "foo=1",
            "unknown key 'foo'; sections are data, augment, model, loss, distill, roi, optim, train, eval, scaling, "
            "run",
        ),
        ("run.zzz=1", "unknown key 'run.zzz'; run has the keys uri"),
        # wrong types
        ("optim.lr=abc", "optim.lr: must be a number, found 'abc'"),
        ("optim.lr=null", "optim.lr: must be a number, found null"),
        ("optim.lr.x=3", "optim.lr: must be a number, found {'x': 3}"),
        ("train.steps=1.5", "train.steps: must be a whole number or null, found 1.5"),
        ("scaling.use_gpu=maybe", "scaling.use_gpu: must be true or false, found 'maybe'"),
        ("run.uri=", "run.uri: must not be blank, found ''"),
        ("train.precision=fp8", "train.precision: must be 'fp32' or 'bf16' or 'fp16', found 'fp8'"),
        ("augment.scale=1", "augment.scale: must be a list of 2 numbers, found 1"),
        ("augment.scale=[a, 2]", "augment.scale: must be a list of 2 numbers, found ['a', 2]"),
        ("model.mean=[1, 1]", "model.mean: must be a list of 3 numbers, found [1, 1]"),
        ("data.train_splits=train", "data.train_splits: must be a list of texts, found 'train'"),
        ("data.train_splits=[]", "data.train_splits: must not be empty, found []"),
        (
            "scaling.num_workers=two",
            "scaling.num_workers: must be a whole number or a list of 2 whole numbers, found 'two'",
        ),
        (
            "scaling.num_workers=[1]",
            "scaling.num_workers: must be a whole number or a list of 2 whole numbers, found [1]",
        ),
        (
            "scaling.resources_per_worker={CPU: x}",
            "scaling.resources_per_worker: must be a mapping from names to numbers or null, found {'CPU': 'x'}",
        ),
        ("run=5", "run: must be a section with keys such as uri, found 5"),
        ("train=null", "train: must be a section with keys such as steps, epochs, global_batch, found null"),
        # ranges
        ("optim.lr=-1", "optim.lr: must be above 0, found -1"),
        ("optim.lr=.nan", "optim.lr: must be a finite number, found nan"),
        ("train.steps=0", "train.steps: must be at least 1, found 0"),
        ("augment.flip=2", "augment.flip: must be at most 1, found 2"),
        ("model.dropout=1", "model.dropout: must be below 1, found 1"),
        ("augment.crop=100", "augment.crop: must be a multiple of 8, found 100"),
        (
            "augment.scale=[2, 1]",
            "augment.scale: a range must be [low, high] with 0 < low <= high, found [2.0, 1.0]",
        ),
        ("model.std=[0, 1, 1]", "model.std: every deviation must be above 0, found [0.0, 1.0, 1.0]"),
        ("model.strides=[4, 12]", "model.strides: each stride must be twice the one before, found [4, 12]"),
        ("optim.betas=[0.9, 1]", "optim.betas: each beta must be at least 0 and below 1, found [0.9, 1.0]"),
        ("scaling.num_workers=-1", "scaling.num_workers: must be 0 (no Ray) or more, found -1"),
        (
            "scaling.num_workers=[0, 2]",
            "scaling.num_workers: an elastic range must be [min, max] with 1 <= min <= max, found [0, 2]",
        ),
        # lists of mappings
        ("data.uris=3", "data.uris: must be a list of mappings with the keys uri, weight, found 3"),
        ("data.uris=[a]", "data.uris: must be a list of mappings with the keys uri, weight, found ['a']"),
        (
            "data.uris=[{url: a}]",
            "data.uris: must be a list of mappings with the keys uri, weight, found [{'url': 'a'}]",
        ),
        (
            "data.uris=[{uri: ''}]",
            "data.uris: must be a list of mappings with the keys uri, weight, found [{'uri': ''}]",
        ),
        ("data.uris=[{uri: a}, {uri: b, weight: 0}]", "data.uris[1].weight: must be above 0, found 0"),
        ("data.uris=[{uri: a}, {uri: a}]", "data.uris: found a twice; list it once, with a larger weight"),
        (
            "scaling.resources_per_worker={CPU: 0}",
            "scaling.resources_per_worker: every amount must be above 0, found {'CPU': 0.0}",
        ),
        ("data.train_splits=[train, train]", "data.train_splits: found 'train' twice; name each split once"),
        # keys that do not go together
        (
            "data.train_splits=[train, val]",
            "data.train_splits ['train', 'val'] hold data.val_split 'val', which is to choose among models that have "
            "not seen it: set data.val_split=null, or leave it out of the former",
        ),
        (
            "scaling.num_workers=[1, 3]",
            "train.global_batch = 8 cannot be split evenly over 3 workers (scaling.num_workers); "
            "with it [1, 2, 4, 8] workers are possible",
        ),
        (
            "scaling.num_workers=[3, 8]",
            "train.global_batch = 8 cannot be split evenly over 3 workers (scaling.num_workers); "
            "with it [1, 2, 4, 8] workers are possible",
        ),
        ("train.steps=null", "give exactly one of train.steps and train.epochs, found neither"),
        (
            "loss.cross_entropy=0",
            "loss.cross_entropy, loss.dice and loss.lovasz are 0: nothing would be learned from masks; "
            "set loss.cross_entropy above 0",
        ),
        (
            "loss.ingredients=0.1",
            "loss.ingredients above 0 and model.ingredient_head: true need each other: found 0.1 and false",
        ),
        (
            "model.ingredient_head=true",
            "loss.ingredients above 0 and model.ingredient_head: true need each other: found 0 and true",
        ),
        (
            "loss.score_map=1",
            "loss.score_map above 0 and model.fusion = score_map need each other: found 1 and none",
        ),
        (
            "distill.conditioning_mix=[0.5, 0.5, 0.5, 0]",
            "distill.conditioning_mix: four shares of at least 0 that add up to 1 are needed, "
            "found [0.5, 0.5, 0.5, 0.0]",
        ),
        (
            "distill.conditioning_mix=[1]",
            "distill.conditioning_mix: must be a list of 4 numbers, found [1]",
        ),
        ("eval.stride=3", "eval.stride needs eval.window: without a window the whole image is taken at once"),
        (
            "train.batch_norm=sync",
            "train.batch_norm = sync works on GPUs only; use 'live' or 'frozen', or scaling.use_gpu: true",
        ),
        ("train.ema_horizon=0", "eval.weights = ema needs train.ema_horizon above 0; or set eval.weights: student"),
        (
            "loss.ingredients=0.1",
            "loss.ingredients above 0 and model.ingredient_head: true need each other: found 0.1 and false",
        ),
        (
            "eval.restrict=hard",
            "eval.restrict needs conditioning classes: set eval.ingredients to predicted or provided",
        ),
        (
            "eval.ingredients=predicted",
            "eval.ingredients = predicted needs a model trained with model.ingredient_head: true",
        ),
        (
            "eval.ingredients=provided",
            "eval.ingredients = provided changes nothing: the model has no text fusion (model.fusion is none); "
            "set eval.restrict to soft or hard, or eval.ingredients to vocabulary",
        ),
        # a section within a section
        ("model.fusion=film", "model.fusion = film needs model.text.kind: table or open_clip"),
        ("model.fusion_stride=8", "model.fusion_stride is not used by model.fusion = none: leave it null"),
        (
            "model.text={kind: table, table: t}",
            "model.text is used by model.fusion alone, which is none: set both or neither",
        ),
        ("model.text.kind=table", "model.text.table is missing: make one with `foodseg data embed`"),
        ("model.text.table=t", "model.text.table needs kind table"),
        (
            "model.text.kind=open_clip",
            "model.text.model is needed for kind open_clip: a name such as ViT-L-14, with its tag",
        ),
        ("model.text.tag=openai", "model.text.model and model.text.tag need kind open_clip"),
        ("model.text.quick_gelu=true", "model.text.quick_gelu needs kind open_clip"),
        ("model.text.kind=clip", "model.text.kind: must be 'none' or 'open_clip' or 'table', found 'clip'"),
        ("model.text.gamma=2", "model.text.gamma: must be at most 1, found 2"),
        ("model.text.centre=3", "model.text.centre: must be true or false, found 3"),
        ("model.text.prompts=[]", "model.text.prompts: must not be empty, found []"),
        ("model.text.prompts=[food]", "model.text.prompts: each prompt must have one {} for the name, found 'food'"),
        ("model.text.prompts=[1]", "model.text.prompts: each prompt must have one {} for the name, found '1'"),
        ("model.text.prompts=[[a]]", "model.text.prompts: must be a list of texts, found [['a']]"),
        ("model.text.tble=t", "unknown key 'model.text.tble'; did you mean model.text.table?"),
        ("model.prompts=[a]", "unknown key 'model.prompts'; did you mean model.text.prompts?"),
        ("gamma=1", "unknown key 'gamma'; did you mean model.text.gamma?"),
        ("model.text=none", "model.text: must be a section with keys such as kind, table, model, found 'none'"),
        (
            "model.text={1: 2}",
            "unknown key 'model.text.1'; model.text has the keys kind, table, model, tag, quick_gelu, prompts, centre, "
            "gamma",
        ),
        # the form of an override
        ("optim.lr", "--set 'optim.lr': expected section.key=value, for example optim.lr=3e-4"),
        ("=3", "--set '=3': expected section.key=value, for example optim.lr=3e-4"),
        ("optim.=3", "--set 'optim.=3': expected section.key=value, for example optim.lr=3e-4"),
        (
            "optim.lr=[1",
            "optim.lr: found '[1', which is not valid YAML: write numbers as 3e-4, lists as [a, b] with quotes around "
            "what has blanks or punctuation, mappings as {a: 1}",
        ),
    ],
)
def test_a_refusal_is_one_sentence(override: str, sentence: str) -> None:
    assert refusal([override]) == sentence


@pytest.mark.parametrize(
    ("key", "override"),
    [
        ("data.uri", "data.uri=s3://me:hunter2@b/meals"),
        ("data.uris[0].uri", "data.uris=[{uri: s3://me:hunter2@b/meals}]"),
        ("run.uri", "run.uri=s3://me:hunter2@b/runs?region=eu"),
        ("model.weights", "model.weights=s3://me:hunter2@b/w.safetensors"),
        ("model.text.table", "model.text.table=s3://me:hunter2@b/t.safetensors"),
        ("train.mlflow_uri", "train.mlflow_uri=https://me:hunter2@mlflow.example"),
        ("data.uris", "data.uris=[s3://me:hunter2@b/meals]"),  # malformed: what was found is shown without it
        ("train.steps", "train.steps=s3://me:hunter2@b"),
    ],
)
def test_keys_in_a_uri_are_neither_taken_nor_shown(key: str, override: str) -> None:
    sentence = refusal([override])
    assert sentence.startswith(f"{key}: ") and "://***@" in sentence and "hunter2" not in sentence
    if "must be" not in sentence:
        assert "set them in the environment (AWS_ACCESS_KEY_ID" in sentence


@pytest.mark.parametrize(
    "override", ["data.train_splits=[test]", "data.train_splits=[train, test]", "data.val_split=test"]
)
def test_training_never_opens_test(override: str) -> None:
    key = override.partition("=")[0]
    expected = f"{key}: found 'test', which only `foodseg evaluate` opens; train on 'train', choose on 'val'"
    assert refusal([override]) == expected


def test_several_mistakes_are_named_together_and_each_once() -> None:
    assert refusal(["train.steps=0", "augment.scale=[a, b]", "optm.lr=1"]) == (
        "augment.scale: must be a list of 2 numbers, found ['a', 'b']; train.steps: must be at least 1, found 0; "
        "unknown key 'optm'; did you mean optim?"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("3E-4", 3e-4), ("1.e-3", 1e-3), (".5e+1", 5.0), ("1e1", 10.0), ("0.5", 0.5), ("2", 2.0)],
)
def test_a_learning_rate_is_a_number(text: str, value: float, tmp_path: Path) -> None:
    assert load_config(None, [f"optim.lr={text}"]).config.optim.lr == value
    assert load_config(written(tmp_path, f"optim:\n  lr: {text}\n")).config.optim.lr == value


@pytest.mark.parametrize(
    ("text", "overrides", "length"),
    [
        ("", [], (1000, None)),
        ("", ["train.seed=5"], (1000, None)),
        ("train:\n  seed: 5\n", [], (1000, None)),
        ("train:\n", [], (1000, None)),
        ("train:\n  steps: 7\n", [], (7, None)),
        ("train:\n  epochs: 2\n", [], (None, 2.0)),
        ("train:\n  epochs: 2\n  steps: null\n", [], (None, 2.0)),
        ("train:\n  steps: 7\n", ["train.epochs=2"], (None, 2.0)),
        ("train:\n  epochs: 2\n", ["train.steps=7"], (7, None)),
        ("", ["train.epochs=2", "train.steps=7"], (7, None)),
        ("", ["train.steps=7", "train.epochs=2"], (None, 2.0)),
        ("train:\n  steps: 7\n", ["train.epochs=null"], (7, None)),
    ],
)
def test_steps_or_epochs(text: str, overrides: list[str], length: tuple[object, object], tmp_path: Path) -> None:
    train = load_config(written(tmp_path, text), overrides).config.train
    assert (train.steps, train.epochs) == length


def test_steps_and_epochs_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exactly one of train\.steps and train\.epochs, found both"):
        load_config(written(tmp_path, "train:\n  steps: 3\n  epochs: 2\n"))


def test_one_data_set_or_several(tmp_path: Path) -> None:
    several = written(tmp_path, "data:\n  uris:\n  - uri: a\n  - {uri: b, weight: 2.5}\n")
    data = load_config(several).config.data
    assert (data.uri, [(entry.uri, entry.weight) for entry in data.uris]) == ("", [("a", 1.0), ("b", 2.5)])
    resolved = load_config(several, ["data.uri=c"])  # the later one wins
    assert (resolved.config.data.uri, resolved.config.data.uris) == ("c", ())
    assert (resolved.origins["data.uri"], resolved.origins["data.uris"]) == ("--set", "default")
    assert load_config(several, ["data.uri=c", "data.uris=[{uri: d}]"]).config.data.uris[0].uri == "d"
    assert load_config(several, ["data.uri="]).config.data == data
    assert load_config(written(tmp_path, to_yaml(load_config(several).config))).config.data == data
    with pytest.raises(UserError, match=r"c\.yaml: give exactly one of data\.uri and data\.uris, found both$"):
        load_config(written(tmp_path, "data:\n  uri: a\n  uris: [{uri: b}]\n"))


def test_origins(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  epochs: 2\noptim:\n  lr: 0.1\n  warmup: 0\n")
    resolved = load_config(path, ["optim.lr=0.2", "train.steps=5", "scaling.resources_per_worker={CPU: 1}"])
    not_default = {key: origin for key, origin in resolved.origins.items() if origin != "default"}
    assert not_default == {
        "optim.lr": "--set",
        "optim.warmup": path,
        "train.steps": "--set",
        "scaling.resources_per_worker": "--set",
    }
    assert (resolved.config.optim.lr, resolved.config.optim.warmup) == (0.2, 0)
    model = resolved.config.model
    inner = [
        model.text,
        model.vit,
        model.diffusion,
        model.realtime,
        resolved.config.optim.stage_two,
    ]  # within a section
    below = sum(len(type(section).model_fields) - 1 for section in inner)
    assert len(resolved.origins) == sum(len(section) for section in resolved.config.model_dump().values()) + below


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train:\n  steps: [1\noptim: 2\n", "c.yaml, line 3: not valid YAML"),
        ("train:\n\tsteps: 1\n", "c.yaml, line 2: not valid YAML"),
        ("- a\n", "expected sections such as 'train:', found list"),
        ("1: 2\n", "unknown key '1'; sections are"),
        ("train:\n  1: 2\n", "unknown key 'train.1'; train has the keys"),
        ("? [a]\n: 2\n", "line 1: not valid YAML .a key must be text"),
        ("a: !!python/object:os.system x\n", "line 1: not valid YAML"),
        ("optim:\n  lr: 1\n  warmup: 0\n  lr: 2\n", r"c.yaml, line 4: .*the key 'lr' occurs here a second time"),
        ("optim: {}\ntrain: {}\noptim: {}\n", r"c.yaml, line 3: .*the key 'optim' occurs here a second time"),
    ],
)
def test_files_that_are_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        load_config(written(tmp_path, text))


def test_a_mistake_in_a_file_names_it(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  steps: 0\n  global_batch: 8\noptm:\n  lr: 1\n")
    with pytest.raises(UserError) as caught:
        load_config(path, ["optim.lr=-1"])
    assert str(caught.value) == (
        f"optim.lr: must be above 0, found -1; {path}: train.steps: must be at least 1, found 0; "
        f"{path}: unknown key 'optm'; did you mean optim?"
    )
    path = written(tmp_path, "train:\n  global_batch: 8\n")
    with pytest.raises(UserError, match=r"^train.global_batch = 8 cannot be split"):  # file and --set together
        load_config(path, ["scaling.num_workers=3"])
    path = written(tmp_path, "scaling:\n  num_workers: 3\n")
    with pytest.raises(UserError, match=r"c\.yaml: train.global_batch = 8 cannot be split"):
        load_config(path)


def test_a_mistake_in_an_inner_section_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "model:\n  fusion: film\n  ingredient_head: true\n  text:\n    kind: table\n    tble: t\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: unknown key 'model.text.tble'; did you mean model.text.table?"
    path = written(tmp_path, "model:\n  text: {kind: table, table: t}\n  fusion: cross_attention\n")
    resolved = load_config(path, ["model.text.centre=false", "model.fusion_stride=16"])
    assert resolved.origins["model.text.table"] == path and resolved.origins["model.text.centre"] == "--set"
    assert resolved.origins["model.text.gamma"] == "default" and resolved.config.model.fusion_stride == 16
    with pytest.raises(UserError, match=r"model.fusion_stride must be one of model.strides \[4, 8, 16, 32\], found 2$"):
        load_config(path, ["model.fusion_stride=2"])
    with pytest.raises(UserError, match=r"^model.fusion = film needs model.ingredient_head: true, whose prediction"):
        load_config(path, ["model.fusion=film"])
    assert load_config(written(tmp_path, to_yaml(resolved.config))).config == resolved.config


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        load_config(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.epochs=0.5"],
        ["scaling.num_workers=[1, 2]", "optim.lr=3e-7", "scaling.resources_per_worker={CPU: 0.5}"],
    ],
)
def test_yaml_and_json_round_trips(overrides: list[str], tmp_path: Path) -> None:
    config = load_config(None, overrides).config
    assert load_config(written(tmp_path, to_yaml(config))).config == config
    assert parse_config(config.model_dump(mode="json")) == config


def test_the_hash_names_what_is_trained_not_where() -> None:
    plain = config_hash(ExperimentConfig())
    assert len(plain) == 12 and int(plain, 16) >= 0
    assert config_hash(load_config(None, ["run.uri=x", "scaling.num_workers=2"]).config) == plain
    assert config_hash(load_config(None, ["optim.lr=0.5"]).config) != plain
    assert config_hash(load_config(None, ["train.seed=1"]).config) != plain


@pytest.mark.parametrize(("workers", "sizes"), [(0, [1]), (1, [1]), (4, [4]), ((2, 4), [2, 3, 4])])
def test_world_sizes(workers: object, sizes: list[int]) -> None:
    config = parse_config({"scaling": {"num_workers": workers}, "train": {"global_batch": 12}})
    assert list(config.scaling.world_sizes) == sizes


def test_an_elastic_run_leaves_out_the_sizes_that_do_not_divide_the_batch() -> None:
    config = parse_config({"scaling": {"num_workers": (2, 8)}, "train": {"global_batch": 16}})
    assert config.world_sizes == [2, 4, 8]
    assert parse_config({"scaling": {"num_workers": 0}}).world_sizes == [1]


def test_only_eval_may_change_for_a_checkpoint() -> None:
    config = ExperimentConfig()
    assert with_eval_overrides(config, ["eval.flip=true"]).eval.flip
    with pytest.raises(UserError, match=r"--set 'optim.lr=1': only eval\.\* can be changed here"):
        with_eval_overrides(config, ["eval.flip=true", "optim.lr=1"])


def test_overrides_leave_the_rest_and_the_original_alone() -> None:
    config = load_config(None, ["train.epochs=2", "optim.lr=0.5"]).config
    changed = with_overrides(config, ["train.steps=9"])
    assert (changed.train.steps, changed.train.epochs, changed.optim.lr) == (9, None, 0.5)
    assert (config.train.steps, config.train.epochs) == (None, 2.0)


DIFFUSION = ["model.kind=diffusion", "model.backbone=tiny", "model.strides=[8, 16, 32, 64]"]
CONDITIONED = [*DIFFUSION, "model.fusion=cross_attention", "model.text={kind: table, table: t}"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.diffusion.timestep=5"], "model.diffusion is used by model.kind = diffusion alone: leave it out"),
        (
            ["model.kind=diffusion"],
            "model.backbone must be sd1, sd2 or tiny with model.kind = diffusion, found 'tf_efficientnet_lite0'",
        ),
        (
            [*DIFFUSION, "model.strides=[4, 8]"],
            "model.strides must be neighbours among 8, 16, 32 and 64, and not 64 alone, with model.kind = diffusion, "
            "found [4, 8]",
        ),
        (
            [*DIFFUSION, "model.weights=timm"],
            "model.weights must be none, a folder, an s3:// URI or hf://owner/name with model.kind = diffusion, found "
            "'timm'",
        ),
        (
            [*DIFFUSION, "model.mean=[0.4, 0.4, 0.4]"],
            "model.mean must be 0.5 each, since the VAE takes numbers in [-1, 1] with model.kind = diffusion, found "
            "[0.4, 0.4, 0.4]",
        ),
        (
            [*CONDITIONED, "model.fusion=score_map", "loss.score_map=1"],
            "model.fusion must be none or cross_attention with model.kind = diffusion, found 'score_map'",
        ),
        (
            [*CONDITIONED, "model.fusion_stride=16"],
            "model.fusion_stride must be null: all layers attend to the classes with model.kind = diffusion, found 16",
        ),
        (
            [*CONDITIONED, "model.text={kind: open_clip, model: ViT-L-14, tag: openai}"],
            "model.text.centre must be false with model.kind = diffusion and model.text.kind = open_clip: the UNet was "
            "trained with CLIP's embeddings as they are",
        ),
        ([*DIFFUSION, "model.diffusion.timestep=1000"], "model.diffusion.timestep: must be at most 999, found 1000"),
        ([*DIFFUSION, "model.diffusion.unet=half"],
         "model.diffusion.unet: must be 'full' or 'frozen' or 'lora', found 'half'"),
        (
            [*DIFFUSION, "model.diffusion.map=true"],
            "unknown key 'model.diffusion.map'; did you mean model.diffusion.maps?",
        ),
        (
            [*DIFFUSION, "augment.crop=96"],
            "augment.crop must be a multiple of 64 with model.kind = diffusion, found 96",
        ),
        (
            [*DIFFUSION, "eval.window=96"],
            "eval.window must be a multiple of 64 with model.kind = diffusion, found 96",
        ),
        ([*DIFFUSION, "train.compile=true"],
         "train.compile does not work with model.kind = diffusion: leave it false"),
        (
            [*DIFFUSION, "model.diffusion.lora_rank=4"],
            "model.diffusion.lora_rank = 4 has no effect with unet = full: set unet to lora",
        ),
        (
            [*CONDITIONED, "model.ingredient_head=true", "loss.ingredients=1", "distill.conditioning_mix=[0, 1, 0, 0]"],
            "distill.conditioning_mix must condition some students on all classes (first share above 0): the "
            "ingredient head of model.kind = diffusion learns from these alone, since its features depend on the "
            "conditioning classes",
        ),
        (
            [*DIFFUSION, "loss.attention=1"],
            "loss.attention above 0 needs model.kind = diffusion, model.fusion = cross_attention, "
            "model.diffusion.maps: true and 16 or 32 among model.strides",
        ),
        (
            ["loss.stages=1", "distill.stages=[2]"],
            "distill.stages must be some of model.strides [4, 8, 16, 32], each once, found [2]",
        ),
        (["distill.stages=[4]"], "distill.stages is used by loss.stages and loss.deeper alone, which are 0"),
        (
            ["loss.deeper=1", "distill.stages=[32]"],
            "loss.deeper needs a stage above which there is a deeper one: among distill.stages, one of model.strides "
            "[4, 8, 16, 32] but the last",
        ),
        (
            ["loss.stages=1", "train.ema_horizon=0", "eval.weights=student"],
            "loss.distill, features, stages, deeper, attention and pseudo_labels need the averaged weights as their "
            "teacher: set train.ema_horizon above 0, or all of these weights to 0",
        ),
    ],
)  # fmt: skip
def test_settings_of_a_diffusion_model_and_its_teacher(overrides, sentence):
    assert refusal(overrides) == sentence


def test_a_diffusion_model_has_levels_of_its_own(tmp_path):
    path = written(tmp_path, "model:\n  kind: diffusion\n  backbone: sd1\n")
    config = load_config(path).config
    assert config.model.strides == (8, 16, 32, 64) and not config.model.has_maps
    assert parse_config(config.model_dump(mode="json")) == config
    assert load_config(None, [*CONDITIONED, "loss.attention=1"]).config.model.has_maps


def test_a_configuration_from_before_there_was_diffusion():
    """Of an older checkpoint."""
    tree = ExperimentConfig().model_dump(mode="json")
    del tree["model"]["kind"], tree["model"]["diffusion"], tree["distill"]["stages"]
    for name in ("stages", "deeper", "attention"):
        del tree["loss"][name]
    assert parse_config(tree) == ExperimentConfig()


# those of sweeps and ablations are read in tests/unit/tune/test_sweep_files.py
RECIPES = sorted(path for path in Path("jobs/configs").glob("*.yaml") if path.stem not in ("sweep", "ablate"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_can_be_read(path):
    assert load_config(str(path), ["data.uri=d"]).config.run.uri.startswith("runs/")
