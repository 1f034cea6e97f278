"""The models that are known to be good, in the key-value store that every Ray cluster has.

The store outlives replicas, deployments and, where the cluster's head is fault tolerant, the head. A write replaces one
whole value, so that processes need no lock.
"""

import json
from dataclasses import asdict

from foodseg.cluster.ray_internals.core import kv_get, kv_keys, kv_put
from foodseg.serve.served_model import ModelCard

_NAMESPACE = "foodseg-serve"


class ClusterKnownModels:
    """The `KnownModels` of `serve/model_store.py` for one Serve application."""

    def __init__(self, application: str, release: str) -> None:
        """release: an id of the deployed application; it changes with each deployment."""
        self._application = application
        self._release = release

    def latest(self) -> dict[str, ModelCard]:
        keys = kv_keys(_NAMESPACE, f"{self._application}/latest/")
        cards = (_card(kv_get(_NAMESPACE, key)) for key in keys)
        return {card.name: card for card in cards if card is not None}

    def find(self, model_id: str) -> ModelCard | None:
        return _card(kv_get(_NAMESPACE, self._key("id", model_id)))

    def record(self, card: ModelCard) -> None:
        value = json.dumps(asdict(card)).encode()
        for key in (self._key("id", card.id), self._key("latest", card.name)):
            kv_put(_NAMESPACE, key, value)

    def pinned(self, name: str, checkpoint: str) -> ModelCard | None:
        value = kv_get(_NAMESPACE, self._pinned_key(name))
        found = {} if value is None else json.loads(value)
        return _card(json.dumps(found["card"]).encode()) if found.get("wanted") == checkpoint else None

    def pin(self, name: str, checkpoint: str, card: ModelCard) -> None:
        value = json.dumps({"wanted": checkpoint, "card": asdict(card)}).encode()
        kv_put(_NAMESPACE, self._pinned_key(name), value)

    def _pinned_key(self, name: str) -> str:
        return self._key(f"pinned/{self._release}", name)

    def _key(self, kind: str, name: str) -> str:
        return f"{self._application}/{kind}/{name}"


def _card(value: bytes | None) -> ModelCard | None:
    if value is None:
        return None
    fields = json.loads(value)
    return ModelCard(**{**fields, "classes": tuple(fields["classes"])})
