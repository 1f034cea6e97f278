"""Which checkpoint each public name means: wanted, serving, and what went wrong with the one that was wanted.

    shelf = ModelStore(ServedModel, memory)
    shelf.want({"models": {"meals": "runs/b"}})  # never raises: a bad checkpoint changes nothing
    shelf.model("meals@0a1b2c3d4e5f")

A checkpoint that opened and labelled an image is noted in the memory, which outlives this process: a process that
starts later with a bad checkpoint serves the one noted there, and any process can open what another already serves. So
is what the name of a run meant when it was deployed: the run goes on, but what answers changes only when it is swapped.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from foodseg import storage
from foodseg.checkpoint.manifest import resolve_checkpoint
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


class Memory(Protocol):
    """What is known to be good; shared by the processes of one application, safe to write from several at once."""

    def latest(self) -> dict[str, ModelCard]:
        """Returns for each name the checkpoint that answers."""

    def find(self, model_id: str) -> ModelCard | None:
        """Returns a checkpoint that answered at some time."""

    def note(self, card: ModelCard) -> None:
        """Makes a checkpoint the one that answers for its name."""

    def settled(self, name: str, checkpoint: str) -> ModelCard | None:
        """Returns what the run or URI that is wanted for a name was found to mean, None = nobody has looked yet."""

    def settle(self, name: str, checkpoint: str, card: ModelCard) -> None:
        """Notes what it means, for the processes that start later; the run may have gone on by then."""


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

    def __init__(self, open_model: Callable[[str, str, str], ServedModel], memory: Memory) -> None:
        """open_model(name, uri of a checkpoint directory, its sha) loads one, or raises."""
        self._open = open_model
        self._memory = memory
        self._wanted = Wanted({}, None)
        self._errors: dict[str, str] = {}
        self._serving: dict[str, ModelCard] = {}  # by this process
        self._opened: dict[str, ServedModel] = {}  # until somebody asks for it
        self._may_heal = False
        self._round = 0

    @property
    def may_heal(self) -> bool:
        """Whether a checkpoint could not be read for a reason that passes, such as storage that stays away."""
        return self._may_heal

    def want(self, user_config: Any) -> list[str]:
        """Opens every checkpoint that does not serve yet; one that fails leaves its name as it was.

        A later call wins over an earlier one that is still at work. Takes as long as loading takes.

        Returns:
            The ids that this process now serves; `model` gives each of them at once the first time.
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
            except Exception as error:  # whatever a checkpoint does to this process, the old one goes on serving
                errors[name] = _sentence(error)
                may_heal |= isinstance(error, RetryLater)
                _log.error("model %s: %s; what served before goes on", name, errors[name])
                card = self._last_good(name)
            if mine != self._round:
                return []
            if card is not None:
                serving[name] = card
            if name not in errors:
                if refused is not None or changed is not None:
                    errors[name] = refused or changed or ""
                assert card is not None
                self._memory.note(card)
        self._serving, self._errors, self._may_heal = serving, errors, may_heal
        ready = [card.id for card in serving.values()]
        for model_id in set(self._opened) - set(ready):  # of an earlier call that this one has overtaken
            self._opened.pop(model_id, None)
        return ready

    def states(self) -> list[ModelState]:
        """Returns what `/v1/models` shows; the same in every process once all have noted what they serve.

        A process that has found nothing to serve under a name says so: it cannot answer for the others.
        """
        latest = {name: card for name, card in self._memory.latest().items() if name in self._serving}
        return [self._state(name, checkpoint, latest.get(name)) for name, checkpoint in self._wanted.models.items()]

    def model(self, model_id: str) -> ServedModel:
        """Returns an opened model; loads it where this process has not.

        Raises:
            UserError: no such model was ever served, or its files are gone. RetryLater: storage stays away.
        """
        opened = self._opened.pop(model_id, None)
        if opened is not None:
            return opened
        card = self._memory.find(model_id)
        if card is None:
            raise UserError(f"no model {model_id!r} was ever served here")
        return self._open(card.name, card.uri, card.sha)

    def _opened_card(self, name: str, checkpoint: str) -> tuple[ModelCard, str | None]:
        """Returns what serves under a name from now on, and why it is not what the name has meant until now."""
        settled = self._memory.settled(name, checkpoint)
        if settled is None:
            uri = resolve_checkpoint(checkpoint)
            card = self._open_once(name, uri, checkpoint_sha(uri))
            self._memory.settle(name, checkpoint, card)
            return card, None
        try:
            return self._open_once(name, settled.uri, settled.sha), None
        except RetryLater:
            raise
        except Exception as error:
            # somebody has deleted or replaced it; the name of a run still means its best checkpoint
            uri = resolve_checkpoint(checkpoint)
            sha = checkpoint_sha(uri)
            if (uri, sha) == (settled.uri, settled.sha):
                raise
            card = self._open_once(name, uri, sha)
            self._memory.settle(name, checkpoint, card)
            return card, f"{_sentence(error)}; what serves instead is {storage.redact(uri)}, {sha[:12]}"

    def _open_once(self, name: str, uri: str, sha: str) -> ModelCard:
        serving = self._serving.get(name)
        if serving is not None and serving.sha == sha:
            return serving
        model = self._open(name, uri, sha)
        self._opened[model.card.id] = model
        return model.card

    def _last_good(self, name: str) -> ModelCard | None:
        """Returns what serves under the name after all: what did so here, else what did so elsewhere."""
        if name in self._serving:
            return self._serving[name]
        card = self._memory.latest().get(name)
        if card is None:
            return None
        try:
            self._opened[card.id] = self._open(card.name, card.uri, card.sha)
        except Exception as error:
            _log.error("model %s: nor does the last good one serve: %s", name, _sentence(error))
            return None
        return card

    def _known(self) -> Wanted:
        """What to go on with where the new configuration cannot be read."""
        if self._wanted.models:
            return self._wanted
        latest = self._memory.latest()
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
            guided=card is not None and card.guided,
            longest_side=card.longest_side if card else None,
        )


def _sentence(error: Exception) -> str:
    text = str(error) if isinstance(error, FoodsegError) else f"{type(error).__name__}: {error}"
    return storage.redact(" ".join(text.split()))[:500]
