"""The models of one replica: which checkpoint each public name means, which one serves, and why they differ.

    store = ModelStore(ServedModel, known_models)
    store.want({"models": {"meals": "runs/b"}})  # never raises: a bad checkpoint changes nothing
    store.model("meals@0a1b2c3d4e5f")

A checkpoint that loaded and labelled an image is recorded in `KnownModels`, which outlive this process. A process that
starts later with a bad checkpoint serves the recorded one, and any process can load what another already serves. The
name of a run is also pinned there to the checkpoint that it meant at deployment: the run may continue to train, but the
served checkpoint changes only by a swap.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from foodseg import storage
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.config.serve import check_model
from foodseg.errors import FoodsegError, RetryLater, UserError
from foodseg.serve.protocols import ModelState
from foodseg.serve.served_model import ModelCard, ServedModel, checkpoint_sha

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """models: public name -> run, checkpoint or URI. default: the name that answers where a request names none."""

    models: Mapping[str, str]
    default: str | None


class KnownModels(Protocol):
    """The checkpoints known to be good, shared by the processes of one application; several may write at once."""

    def latest(self) -> dict[str, ModelCard]:
        """Returns the checkpoint that serves under each name."""

    def find(self, model_id: str) -> ModelCard | None:
        """Returns a checkpoint that serves, or has served; None if no such checkpoint is recorded."""

    def record(self, card: ModelCard) -> None:
        """Makes a checkpoint the one that serves under its name."""

    def pinned(self, name: str, checkpoint: str) -> ModelCard | None:
        """Returns the checkpoint to which the run or URI that is wanted for a name is pinned, None = not pinned yet."""

    def pin(self, name: str, checkpoint: str, card: ModelCard) -> None:
        """Pins it for the processes that start later; the run may have written newer checkpoints by then."""


def parse_wanted(user_config: Any) -> Wanted:
    """Reads `user_config` of the segmenter: {"models": {name: uri}, "default": name or null}.

    Raises:
        UserError: it has another shape.
    """
    shape = 'user_config of the Segmenter must be {"models": {name: checkpoint}, "default": name or null}'
    if not isinstance(user_config, Mapping) or set(user_config) - {"models", "default"}:
        raise UserError(f"{shape}, found {storage.redact(str(user_config))[:200]}")
    models, default = user_config.get("models") or {}, user_config.get("default")
    if not isinstance(models, Mapping) or not all(isinstance(part, str) for pair in models.items() for part in pair):
        raise UserError(f"{shape}, found models {storage.redact(str(models))[:200]}")
    for name, checkpoint in models.items():
        try:
            check_model(name, checkpoint)
        except ValueError as error:
            raise UserError(f"user_config of the Segmenter: {error}") from None
    if default is not None and default not in models:
        raise UserError(f"the default model must be one of {sorted(models)}, found {default!r}")
    return Wanted(dict(models), default if default is not None else next(iter(models), None))


class ModelStore:
    """`want` may run in one thread while `states` and `model` are called from others."""

    def __init__(self, open_model: Callable[[str, str, str], ServedModel], known_models: KnownModels) -> None:
        """open_model(name, uri of a checkpoint directory, its sha) loads one, or raises."""
        self._open = open_model
        self._known_models = known_models
        self._wanted = Wanted({}, None)
        self._errors: dict[str, str] = {}
        self._serving: dict[str, ModelCard] = {}  # by this process
        self._opened: dict[str, ServedModel] = {}  # until `model` returns it
        self._may_heal = False
        self._round = 0

    @property
    def may_heal(self) -> bool:
        """Whether a checkpoint could not be read for a transient reason, such as storage that does not answer."""
        return self._may_heal

    def want(self, user_config: Any) -> list[str]:
        """Loads every checkpoint that does not serve yet; if one fails, what its name serves does not change.

        A later call wins over an earlier one that is still running. Takes as long as loading takes.

        Returns:
            The ids that this process now serves; the first call of `model` with each returns at once.
        """
        self._round += 1
        mine = self._round
        try:
            wanted, refused = parse_wanted(user_config), None
        except UserError as error:
            wanted, refused = self._known(), str(error)
            _log.error("%s; nothing changes", error)
        self._wanted = wanted
        serving, errors, may_heal = {}, {}, False
        for name, checkpoint in wanted.models.items():
            card: ModelCard | None
            changed: str | None = None
            try:
                card, changed = self._opened_card(name, checkpoint)
            except Exception as error:  # whatever the checkpoint raises, the old one continues to serve
                errors[name] = _sentence(error)
                may_heal |= isinstance(error, RetryLater)
                _log.error("model %s: %s; what served before continues to serve", name, errors[name])
                card = self._last_good(name)
            if mine != self._round:
                return []
            if card is not None:
                serving[name] = card
            if name not in errors:
                if refused is not None or changed is not None:
                    errors[name] = refused or changed or ""
                assert card is not None
                self._known_models.record(card)
        self._serving, self._errors, self._may_heal = serving, errors, may_heal
        ready = [card.id for card in serving.values()]
        for model_id in set(self._opened) - set(ready):  # left by an earlier call that this one has overtaken
            self._opened.pop(model_id, None)
        return ready

    def states(self) -> list[ModelState]:
        """Returns what `/v1/models` shows; the same in every process once all have recorded what they serve.

        A process that could load nothing for a name reports that, even where others serve it.
        """
        latest = {name: card for name, card in self._known_models.latest().items() if name in self._serving}
        return [self._state(name, checkpoint, latest.get(name)) for name, checkpoint in self._wanted.models.items()]

    def model(self, model_id: str) -> ServedModel:
        """Returns a loaded model; loads it if this process has not yet.

        Raises:
            UserError: no such model was ever served, or its files are gone. RetryLater: storage does not answer.
        """
        opened = self._opened.pop(model_id, None)
        if opened is not None:
            return opened
        card = self._known_models.find(model_id)
        if card is None:
            raise UserError(f"no model {model_id!r} was ever served here")
        return self._open(card.name, card.uri, card.sha)

    def _opened_card(self, name: str, checkpoint: str) -> tuple[ModelCard, str | None]:
        """Returns the card that serves under a name from now on and, if it is not the pinned one, why."""
        pinned = self._known_models.pinned(name, checkpoint)
        if pinned is None:
            uri = resolve_checkpoint(checkpoint)
            card = self._open_once(name, uri, checkpoint_sha(uri))
            self._known_models.pin(name, checkpoint, card)
            return card, None
        try:
            return self._open_once(name, pinned.uri, pinned.sha), None
        except RetryLater:
            raise
        except Exception as error:
            # the pinned checkpoint was deleted or replaced; the name of a run still means its best checkpoint
            uri = resolve_checkpoint(checkpoint)
            sha = checkpoint_sha(uri)
            if (uri, sha) == (pinned.uri, pinned.sha):
                raise
            card = self._open_once(name, uri, sha)
            self._known_models.pin(name, checkpoint, card)
            return card, f"{_sentence(error)}; what serves instead is {storage.redact(uri)}, {sha[:12]}"

    def _open_once(self, name: str, uri: str, sha: str) -> ModelCard:
        serving = self._serving.get(name)
        if serving is not None and serving.sha == sha:
            return serving
        model = self._open(name, uri, sha)
        self._opened[model.card.id] = model
        return model.card

    def _last_good(self, name: str) -> ModelCard | None:
        """Returns the last checkpoint that served under the name: in this process, else in another one."""
        if name in self._serving:
            return self._serving[name]
        card = self._known_models.latest().get(name)
        if card is None:
            return None
        try:
            self._opened[card.id] = self._open(card.name, card.uri, card.sha)
        except Exception as error:
            _log.error("model %s: the last good checkpoint cannot be loaded either: %s", name, _sentence(error))
            return None
        return card

    def _known(self) -> Wanted:
        """Returns what to keep serving where the new configuration cannot be read."""
        if self._wanted.models:
            return self._wanted
        latest = self._known_models.latest()
        return Wanted({name: card.uri for name, card in latest.items()}, next(iter(latest), None))

    def _state(self, name: str, checkpoint: str, card: ModelCard | None) -> ModelState:
        return ModelState(
            name=name,
            wanted=storage.redact(checkpoint),
            serving=storage.redact(card.uri) if card else None,
            sha=card.sha if card else None,
            error=self._errors.get(name),
            classes=card.classes if card else (),
            default=name == self._wanted.default,
            conditioned=card is not None and card.conditioned,
            longest_side=card.longest_side if card else None,
            open_vocabulary=card is not None and card.open_vocabulary,
        )


def _sentence(error: Exception) -> str:
    text = str(error) if isinstance(error, FoodsegError) else f"{type(error).__name__}: {error}"
    return storage.redact(" ".join(text.split()))[:500]
