"""Resolves the names in a request: a model's name to its id, the names of ingredients to class ids."""

import asyncio
import logging
import time

from foodseg.classes import ClassTable
from foodseg.predict.class_names import nearest_names
from foodseg.serve.http.schema import ApiError, parse_name_list
from foodseg.serve.model_discovery import MODEL_SOURCE
from foodseg.serve.protocols import ModelState, SegmenterBackend, model_id

SECONDS = 1.0  # after a swap, requests name the new checkpoint within this time
_log = logging.getLogger(__name__)


class ModelNames:
    """The states of the models, refreshed at most once a second; requests do not wait for a refresh."""

    def __init__(self, segmenter: SegmenterBackend) -> None:
        self._segmenter = segmenter
        self._states: list[ModelState] | None = None
        self._asked = 0.0
        self._asking: asyncio.Task[list[ModelState]] | None = None

    async def states(self) -> list[ModelState]:
        """Returns the state of every model, about a second old at most while requests come."""
        if self._asking is None and (self._states is None or time.monotonic() - self._asked > SECONDS):
            self._asking = asyncio.create_task(self._ask())
        if self._states is not None:
            return self._states
        assert self._asking is not None
        return await asyncio.shield(self._asking)

    async def find(self, name: str) -> tuple[ModelState, str]:
        """Returns the model of a public name ('' = the default) and its id `name@sha12`.

        Raises:
            ApiError: 422 unknown_model, 503 no_model (no model is configured) or model_unavailable.
        """
        states = await self.states()
        if not states:
            raise no_model()
        found = next((state for state in states if (state.name == name if name else state.default)), None)
        if found is None:
            known = ", ".join(state.name for state in states)
            raise ApiError(422, "unknown_model", f"there is no model {name[:64]!r}", f"there are: {known}")
        if found.sha is None:
            raise ApiError(
                503, "model_unavailable", f"the model {found.name} is not loaded ({found.error or 'it is loading'})",
                "GET /v1/models shows its state", retry_after=5.0,
            )  # fmt: skip
        return found, model_id(found.name, found.sha)

    async def open_vocabulary(self, name: str) -> str:
        """Returns the id of a model that takes other names than its classes.

        Raises:
            ApiError: 422 not_open_vocabulary; as `find`.
        """
        state, found = await self.find(name)
        if not state.open_vocabulary:
            raise ApiError(
                422, "not_open_vocabulary", f"the model {state.name} knows the classes that it was trained on alone",
                "leave model out for CLIP, or name one for which /v1/models says open_vocabulary: true",
            )  # fmt: skip
        return found

    async def _ask(self) -> list[ModelState]:
        try:
            self._states = await self._segmenter.models()
            return self._states
        except Exception as error:
            if self._states is None:
                raise
            _log.warning("the state of the models cannot be refreshed now (%s)", error)
            return self._states
        finally:
            self._asked = time.monotonic()
            self._asking = None


def no_model() -> ApiError:
    """Returns the error of an endpoint without any model."""
    return ApiError(
        503, "no_model", "no model is configured",
        f"{MODEL_SOURCE}; then give it to this endpoint: foodseg serve swap meals runs/NAME --address ADDRESS (which "
        "`foodseg serve` prints), or name it in segmenter.models", retry_after=5.0,
    )  # fmt: skip


def ingredient_ids(text: str, model: ModelState) -> tuple[int, ...] | None:
    """Returns the ids of the ingredients that a request names, ascending; None if it names none.

    Not for an event loop: the search for names similar to an unknown one is slow.

    Raises:
        ApiError: 422 bad_ingredients, ingredients_unsupported, unknown_ingredient.
    """
    names = parse_name_list(text, "ingredients")
    if not names:
        return None
    if not model.conditioned:
        raise ApiError(
            422, "ingredients_unsupported", f"the model {model.name} is not conditioned on ingredients",
            "leave ingredients out, or name a model for which /v1/models says conditioned: true",
        )  # fmt: skip
    ids = {name.lower(): index for index, name in enumerate(model.classes) if index}
    unknown = [name for name in names if name.lower() not in ids]
    if unknown:
        near = nearest_names(unknown[0], ClassTable(model.classes))
        hint = f"did you mean {' or '.join(near)}?" if near else "GET /v1/classes lists the names"
        raise ApiError(422, "unknown_ingredient", f"the model {model.name} does not know {unknown[0][:64]!r}", hint)
    return tuple(sorted({ids[name.lower()] for name in names}))
