"""The file that deploys the endpoint: Ray Serve's own YAML, with our sections as `args` of the application.

    applications:
    - name: foodseg
      import_path: foodseg.serve.ray_app:build
      args: {segmenter: {models: {meals: runs/a}}}      # ServeConfig
      deployments: [{name: Segmenter, num_replicas: 2}] # Serve's

One file is for `foodseg serve`, `serve run`, `serve deploy` and KubeRay alike.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foodseg import storage
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.config.literals import plain
from foodseg.config.load import read_tree, with_values
from foodseg.config.marks import with_resolved_uris
from foodseg.config.serve import ServeConfig, parse_serve_config
from foodseg.errors import UserError

IMPORT_PATH = "foodseg.serve.ray_app:build"
SEGMENTER, INGRESS = "Segmenter", "Ingress"
# by which Serve's time limit exceeds ours: its own answers are plain text, not our error responses
ABOVE_SECONDS = 15.0


@dataclass(frozen=True)
class DeployFile:
    """tree: for Serve's ServeDeploySchema. config: of our application in it."""

    tree: dict[str, Any]
    config: ServeConfig


def read_deploy_file(path: str | None, overrides: Sequence[str] = ()) -> DeployFile:
    """Reads the file (None: an application with defaults), applies `section.key=value` overrides to its `args`.

    Paths become absolute, as replicas do not run in this folder. Host, port and timeout of Serve are set from ours.

    Raises:
        UserError: not such a file, an unknown key, no checkpoint where a model names one, two addresses that differ.
    """
    where = path or "the defaults"
    tree, given_args = ({"applications": [{"import_path": IMPORT_PATH}]}, {}) if path is None else _read(path)
    # a log line per deployment and request takes time, and the line that Guard writes says more
    tree["logging_config"] = {"encoding": "JSON", "enable_access_log": False} | (tree.get("logging_config") or {})
    if not isinstance(tree.get("applications"), list):
        raise UserError(
            f"{where}: expected Ray Serve's deploy file with 'applications:', see serve_configs/local.yaml for one"
        )
    application = find_application(tree["applications"], where)
    application.setdefault("name", "foodseg")
    application.setdefault("route_prefix", "/")
    args = with_values(given_args, overrides)
    config = _absolute(parse_serve_config(args, path or ""))
    application["args"] = config.model_dump(mode="json", exclude_unset=True)
    wanted = _segmenter_options(application).get("user_config")
    if wanted is not None and any(key.startswith("segmenter.models") for key in overrides):
        raise UserError(
            f"{where}: user_config of the {SEGMENTER} says which models there are, so --set segmenter.models has no "
            "effect: change it there"
        )
    overridden = {override.partition("=")[0] for override in overrides}  # an override wins over the file
    options = {key: value for key, value in (tree.get("http_options") or {}).items() if f"http.{key}" not in overridden}
    tree["http_options"] = _http_options(options, config, where)
    return DeployFile(tree, config)


def _read(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a deploy file, and the `args` of our application with texts as they are written."""
    written = read_tree(path)
    apps = written.get("applications")
    ours: dict[str, Any] = {}
    for app in apps if isinstance(apps, list) else []:
        if isinstance(app, dict) and app.get("import_path") == IMPORT_PATH:
            ours = app
    tree = plain(written)
    models = _models_of(_segmenter_options(copy.deepcopy(ours)))
    if models:
        _models_of(_segmenter_options(find_application(tree["applications"], path))).update(
            {name: str(uri) if isinstance(uri, str) else plain(uri) for name, uri in models.items()}
        )
    args = ours.get("args")
    return tree, args if isinstance(args, dict) else {}


def find_application(applications: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    """Returns the foodseg application among those of Serve. UserError: there is none, or more than one."""
    ours = [app for app in applications if isinstance(app, dict) and app.get("import_path") == IMPORT_PATH]
    if len(ours) != 1:
        raise UserError(f"{where}: expected one application with import_path {IMPORT_PATH}, found {len(ours)}")
    return ours[0]


def given_sections(deploy: DeployFile, where: str) -> dict[str, Any]:
    """Returns what a file and overrides say, section by section, the models of `user_config` included."""
    sections = deploy.config.model_dump(mode="json", exclude_unset=True)
    models = wanted_models(find_application(deploy.tree["applications"], where))["models"]
    return {**sections, "segmenter": {**sections.get("segmenter", {}), "models": models}}


def with_model(application: dict[str, Any], name: str, checkpoint: str) -> dict[str, Any]:
    """Returns a copy of an application in whose `user_config` the name means the checkpoint.

    Only that part of a file changes replicas without restarting them.
    """
    changed = copy.deepcopy(application)
    options = _segmenter_options(changed)
    options["user_config"] = wanted_models(changed)
    options["user_config"]["models"][name] = checkpoint
    if options["user_config"]["default"] is None:
        options["user_config"]["default"] = next(iter(options["user_config"]["models"]))
    return changed


def wanted_models(application: dict[str, Any]) -> dict[str, Any]:
    """Returns {"models": {name: checkpoint}, "default": name or None}, from `user_config`, or else from `args`."""
    segmenter = (application.get("args") or {}).get("segmenter") or {}
    wanted = _segmenter_options(application).get("user_config") or segmenter
    return {"models": dict(wanted.get("models") or {}), "default": wanted.get("default")}


def _models_of(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the models of a `user_config`; {} if it has none."""
    config = options.get("user_config")
    models = config.get("models") if isinstance(config, dict) else None
    return models if isinstance(models, dict) else {}


def _segmenter_options(application: dict[str, Any]) -> dict[str, Any]:
    """Returns the entry of the Segmenter in `deployments`, which is added where it is missing."""
    deployments: list[dict[str, Any]] = application.setdefault("deployments", [])
    found = next((options for options in deployments if options.get("name") == SEGMENTER), None)
    if found is None:
        found = {"name": SEGMENTER}
        deployments.append(found)
    return found


def _absolute(config: ServeConfig) -> ServeConfig:
    """Returns the settings with absolute paths. UserError: a file that they name does not exist."""
    for checkpoint in config.segmenter.models.values():
        resolve_checkpoint(checkpoint)
    if config.regions is not None:
        resolve_checkpoint(config.regions.model)
    tree = with_resolved_uris(config, exclude_unset=True)
    if config.sam is not None and not storage.exists(tree["sam"]["weights"]):
        raise UserError(f"sam.weights: there is no file {storage.redact(tree['sam']['weights'])}")
    # what clip names may also be a name that open_clip knows; that is checked when CLIP is loaded
    return parse_serve_config(tree)


def _http_options(options: dict[str, Any], config: ServeConfig, where: str) -> dict[str, Any]:
    merged: dict[str, Any] = {
        "host": config.http.host, "port": config.http.port,
        "request_timeout_s": config.http.request_seconds + ABOVE_SECONDS,
    } | options  # fmt: skip
    for key in ("host", "port"):
        ours = getattr(config.http, key)
        if key in config.http.model_fields_set and merged[key] != ours:
            raise UserError(f"{where}: http_options.{key} is {merged[key]!r}, but http.{key} is {ours!r}: say it once")
    if merged["request_timeout_s"] is not None and merged["request_timeout_s"] <= config.http.request_seconds:
        raise UserError(
            f"{where}: http_options.request_timeout_s ({merged['request_timeout_s']:g}) must exceed "
            f"http.request_seconds ({config.http.request_seconds:g}): what Serve itself answers is plain text"
        )
    return merged
