"""What the replicas of one application know to be good, in the key-value store that every Ray cluster has.

It outlives replicas, deployments and, where the cluster's head is fault tolerant, the head. Every process writes whole
values under keys of their own, so that none has to wait for another.
"""

import json
from dataclasses import asdict

from ray.experimental import internal_kv

from foodseg.serve.served_model import ModelCard

_NAMESPACE = b"foodseg-serve"


class ClusterMemory:
    """The `Memory` of `serve/model_store.py` for one Serve application."""

    def __init__(self, application: str, release: str) -> None:
        """release: of the application, another one each time that it is deployed anew."""
        self._application = application
        self._release = release

    def latest(self) -> dict[str, ModelCard]:
        keys = internal_kv._internal_kv_list(f"{self._application}/latest/".encode(), namespace=_NAMESPACE)
        cards = (_card(internal_kv._internal_kv_get(key, namespace=_NAMESPACE)) for key in keys)
        return {card.name: card for card in cards if card is not None}

    def find(self, model_id: str) -> ModelCard | None:
        return _card(internal_kv._internal_kv_get(self._key("id", model_id), namespace=_NAMESPACE))

    def note(self, card: ModelCard) -> None:
        value = json.dumps(asdict(card)).encode()
        for key in (self._key("id", card.id), self._key("latest", card.name)):
            internal_kv._internal_kv_put(key, value, namespace=_NAMESPACE)

    def settled(self, name: str, checkpoint: str) -> ModelCard | None:
        value = internal_kv._internal_kv_get(self._settled_key(name), namespace=_NAMESPACE)
        found = {} if value is None else json.loads(value)
        return _card(json.dumps(found["card"]).encode()) if found.get("asked") == checkpoint else None

    def settle(self, name: str, checkpoint: str, card: ModelCard) -> None:
        value = json.dumps({"asked": checkpoint, "card": asdict(card)}).encode()
        internal_kv._internal_kv_put(self._settled_key(name), value, namespace=_NAMESPACE)

    def _settled_key(self, name: str) -> bytes:
        return self._key(f"settled/{self._release}", name)

    def _key(self, kind: str, name: str) -> bytes:
        return f"{self._application}/{kind}/{name}".encode()


def _card(value: bytes | None) -> ModelCard | None:
    if value is None:
        return None
    fields = json.loads(value)
    return ModelCard(**{**fields, "classes": tuple(fields["classes"])})
