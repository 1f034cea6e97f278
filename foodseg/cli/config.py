"""`foodseg config`: show, check and compare configurations."""

import json
from typing import Annotated

import typer

from foodseg.cli.options import AsJson, ConfigFile, Overrides, emit
from foodseg.errors import UserError

config_app = typer.Typer(help="Show, check and compare configurations.", no_args_is_help=True)


@config_app.command("show")
def config_show(
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print a file for --config instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every setting and where its value comes from.

    Example: foodseg config show -c jobs/configs/foodmix.yaml --set optim.lr=3e-4

    Example: foodseg config show --set optim.lr=3e-4 --yaml > mine.yaml
    """
    from foodseg.config.load import leaves, to_yaml
    from foodseg.config.recipe import load_recipe

    if as_yaml and as_json:
        raise UserError("--yaml and --json exclude each other: give one of them")
    resolved = load_recipe(config, overrides or [])
    values = dict(leaves(resolved.config.model_dump(mode="json")))

    def show() -> None:
        if as_yaml:
            print(to_yaml(resolved.config), end="")
            return
        for key, value in values.items():
            print(f"{key} = {_shown(value)}  # {resolved.origins[key]}")

    emit({"config": resolved.config.model_dump(mode="json"), "origins": resolved.origins}, as_json, show)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the configuration, for editors.

    Example: foodseg config schema > foodseg.schema.json
    """
    from foodseg.config import ExperimentConfig

    print(json.dumps(ExperimentConfig.model_json_schema(), indent=1))


@config_app.command("diff")
def config_diff(
    a: Annotated[str, typer.Argument(help="YAML file.")],
    b: Annotated[str, typer.Argument(help="YAML file, for example a run's config.yaml.")],
    as_json: AsJson = False,
) -> None:
    """Print the settings in which two configurations differ, defaults filled in.

    Example: foodseg config diff runs/a/config.yaml runs/b/config.yaml
    """
    from foodseg.config import load_config
    from foodseg.config.load import leaves

    left, right = (dict(leaves(load_config(path).config.model_dump(mode="json"))) for path in (a, b))
    changed = {key: {"a": left[key], "b": right[key]} for key in left if left[key] != right[key]}

    def show() -> None:
        for key, values in changed.items():
            print(f"{key}: {_shown(values['a'])} -> {_shown(values['b'])}")
        if not changed:
            print("no difference")

    emit({"differences": changed}, as_json, show)


def _shown(value: object) -> str:
    """Texts in quotes, so that null is not "null"; as they were typed, also where they are not ASCII."""
    return json.dumps(value, ensure_ascii=False)
