"""A trained model in Python: loaded from a checkpoint, labels images, is saved and shared.

    model = load("runs/a")
    model.predict("lunch.jpg").overlay().save("lunch.overlay.jpg")

`foodseg predict` is this class with files around it: both give the same ids. The network itself is
`models/segmenter.py`; here it comes with its classes, its settings and its calibration.
"""

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, overload, runtime_checkable

import torch

from foodseg import storage
from foodseg.checkpoint.checkpoint import calibration_of, load_checkpoint, load_model, save_checkpoint
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.checkpoint.hub import CARD, push_folder
from foodseg.checkpoint.model_card import card_scores, model_card
from foodseg.config import ExperimentConfig
from foodseg.config.load import with_eval_overrides
from foodseg.config.marks import without_locations
from foodseg.errors import Unavailable, UserError
from foodseg.models.build import Network
from foodseg.models.clip.names import parse_names
from foodseg.models.exported import ExportedNetwork, Runtime, parse_runtime
from foodseg.models.open_vocabulary import NamedSegmenter
from foodseg.predict.class_names import parse_ingredients
from foodseg.predict.device import Device, parse_device, pick_device
from foodseg.predict.image_input import ImageInput
from foodseg.predict.labelling import Labelling
from foodseg.predict.other_names import eval_of_names, named_network
from foodseg.predict.prediction import Prediction
from foodseg.predict.predictor import Predictor
from foodseg.predict.recheck import Recheck, build_recheck
from foodseg.predict.refine import Refine, Refiner, build_refiner, parse_refine


def load(
    uri: str | os.PathLike[str],
    *,
    device: Device | torch.device = "auto",
    weights: Literal["student", "ema"] | None = None,
    overrides: Sequence[str] = (),
    refine: Refine = "none",
    sam: str | os.PathLike[str] | None = None,
    recheck: str | os.PathLike[str] | None = None,
    recheck_below: float | None = None,
    runtime: Runtime | None = None,
) -> "Segmenter":
    """Loads a trained model.

    Args:
        uri: a run (its best checkpoint on val, else the newest), a checkpoint directory, or
            `hf://owner/name[@revision]`; paths, `file://` and `s3://`.
        device: "auto" (a GPU if there is one), "cpu", "gpu", or a `torch.device`.
        weights: "student" (the trained ones) or "ema" (the averaged ones); None = as validation did.
        overrides: `eval.key=value`, as `--set` of the commands: how images are shown to the model.
        refine: whether label maps are redrawn along the masks of Segment Anything: "none", "vote" (a mask takes the id
            that most of its pixels have) or "soft" (the id with the greatest mean logit).
        sam: file or URI of the weights of segment-anything or MobileSAM, for `refine`.
        recheck: a region classifier (`model.kind: roi`) of the same classes, which names regions of low confidence
            again; arguments as `uri`. recheck_below: mean confidence, 0 to 1; None = that of `predict/recheck.py`.
        runtime: "torch" for a checkpoint; "onnxruntime" or "openvino" for what `foodseg export` wrote, which computes
            on the CPU; None = what the directory is for.

    Raises:
        UserError: there is no checkpoint, it is damaged or of another format; an override or a device that does not
            fit. RetryLater: the storage does not answer.

    >>> import foodseg
    >>> model = foodseg.load("runs/a", device="cpu")
    >>> model.classes[:2]
    ('background', 'white rice')
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides is a list of settings: give [{overrides!r}]")
    where = pick_device(parse_device(device, where="device")) if isinstance(device, str) else device
    if where.type == "cuda" and not torch.cuda.is_available():
        raise Unavailable(f"device is {where}, and torch finds no CUDA GPU here: choose auto or cpu")
    chosen = [] if weights is None else [f"eval.weights={weights}"]
    chosen_runtime = parse_runtime(runtime, where="runtime")
    refiner = build_refiner(parse_refine(refine, where="refine"), None if sam is None else os.fspath(sam), where)
    model = Segmenter(resolve_checkpoint(os.fspath(uri)), where, [*overrides, *chosen], refiner, chosen_runtime)
    model.recheck = build_recheck(recheck, recheck_below, where, model.classes)
    return model


@runtime_checkable
class Evaluated(Protocol):
    """What `foodseg.evaluate` returns."""

    def to_json(self) -> Mapping[str, object]: ...


class Segmenter:
    """A trained model with its classes; `foodseg.load` makes it. Use one per thread.

    Attributes:
        uri: the checkpoint directory.
        step: updates done by training.
        classes: names; the index is the id in label maps, 0 = background.
        config: what it was trained with, and `eval` as it is used here.
        overrides: `eval.key=value`, what was changed when it was loaded.
        device: what it computes on; the CPU for an exported model. runtime: as given to `load`.
        refiner: redraws label maps along masks; None = they stay as they are.
        recheck: looks again at regions of low confidence; None = nothing does.
    """

    def __init__(
        self,
        uri: str,
        device: torch.device,
        overrides: Sequence[str] = (),
        refiner: Refiner | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        """Loads the checkpoint directory `uri`; arguments and errors as for `load`."""
        self.refiner = refiner
        self.recheck: Recheck | None = None
        self._checkpoint = load_checkpoint(uri)
        self.uri, self.runtime = uri, runtime
        self.step = self._checkpoint.step
        self.classes: tuple[str, ...] = self._checkpoint.classes.names
        self.config: ExperimentConfig = with_eval_overrides(self._checkpoint.config, overrides)
        self.overrides = tuple(overrides)
        self.device = device if self._checkpoint.exported is None else torch.device("cpu")
        self._network: Network | NamedSegmenter | ExportedNetwork = load_model(
            self._checkpoint, self.config.eval.weights, runtime
        )
        self._labellings: dict[bool, Labelling] = {}  # without and with provided ingredients

    @overload
    def predict(
        self, image: ImageInput, *, ingredients: str | Sequence[str] | None = None, batch_size: int = 8
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        image: list[Any] | tuple[ImageInput, ...],
        *,
        ingredients: str | Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> list[Prediction]: ...
    def predict(
        self,
        image: ImageInput | list[Any] | tuple[ImageInput, ...],
        *,
        ingredients: str | Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> Prediction | list[Prediction]:
        """Labels an image, or each of a list or tuple of images.

        Args:
            image: a path or URI; a PIL image; a NumPy array (H, W, 3) uint8 RGB (of OpenCV's BGR give
                `image[..., ::-1]`); a torch tensor (3, H, W) RGB, uint8 or floating point in 0..1, not normalised.
            ingredients: conditioning classes of all these images, a list of names or one text with commas: a menu, a
                recipe. They set `eval.ingredients` to `provided`; None = what the checkpoint was validated with.
            batch_size: images of a list that are read at once; those padded to one size share a forward pass. But for
                rounding, ids do not depend on it.

        Returns:
            A `Prediction`, or a list of them in the order of the images. Each keeps its image.

        Raises:
            UserError: a file that is missing or cannot be read, an array of another shape, dtype or range, an unknown
                ingredient, conditioning classes that the model cannot use. RetryLater: the storage does not answer.

        >>> import foodseg
        >>> model = foodseg.load("runs/a")
        >>> model.predict("lunch.jpg").ids.shape
        (96, 128)
        >>> len(model.predict(["lunch.jpg", "dinner.jpg"], batch_size=2))
        2
        """
        provided = None
        if ingredients is not None:
            provided = parse_ingredients(ingredients, self._checkpoint.classes, where="ingredients")
        labelling = self._labelling(provided is not None)
        if isinstance(image, list | tuple):
            return list(labelling.predict(image, batch_size, provided))
        (found,) = labelling.predict([image], batch_size, provided)
        return found

    @property
    def renamed(self) -> bool:
        """Whether it looks for other names than the classes that it was trained on."""
        return isinstance(self._network, NamedSegmenter)

    @property
    def predictor(self) -> Predictor:
        """What gives the class scores of an image; UserError: the model needs provided ingredients."""
        return self._labelling(False).predictor

    def with_names(self, names: str | Sequence[str]) -> "Segmenter":
        """Returns one that looks for other names with the same open-vocabulary model, which is not loaded again.

        A name of a class that the model was trained on has what was learned of that class. The other classes stay in
        the competition: where one of them fits best is background, "none of these".

        Args:
            names: as for `foodseg.zero_shot`.

        Raises:
            UserError: the model is not of the kind open_vocabulary; no encoder for other names; as `foodseg.zero_shot`,
                of the names.

        >>> import foodseg
        >>> model = foodseg.load("runs/open")
        >>> model.with_names("carrot, kimchi").classes
        ('background', 'carrot', 'kimchi')
        """
        wanted = parse_names(names)
        if self.recheck is not None:
            raise UserError("recheck names the trained classes, and other names are looked for: leave one of them out")
        network = self._network.network if isinstance(self._network, NamedSegmenter) else self._network.to(self.device)
        named = named_network(network, self._checkpoint, wanted, storage.redact(self.uri))
        other = copy.copy(self)
        other._labellings = {}
        other._network = named
        other.classes = wanted.classes.names
        return other

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        evaluations: Sequence[Evaluated] = (),
        license: str | None = None,
        name: str | None = None,
    ) -> str:
        """Writes the model as a checkpoint directory with a model card, README.md; `foodseg.load` reads it back.

        Both kinds of weights are written, the settings as they are here, classes, class embeddings, calibration and
        history; not the state of the optimizer, and of paths and URIs in the configuration only the last part.

        Args:
            folder: path or URI; it is made, or is empty.
            evaluations: results of `foodseg.evaluate` of this model, for the card. The scores of its last validation
                are there in any case.
            license: for the card, an identifier of the hub such as "cc-by-4.0"; None = the card says that it is
                missing.
            name: title of the card; None = the name of the folder.

        Returns:
            The folder.

        Raises:
            UserError: it holds files or cannot be written; an evaluation is of another model, or none at all.

        >>> import foodseg
        >>> model = foodseg.load("runs/a")
        >>> scored = foodseg.evaluate(model, "prepared/meals")
        >>> foodseg.load(model.save_pretrained("out/meals", evaluations=[scored])).classes == model.classes
        True
        """
        where = os.fspath(folder)
        if self._checkpoint.exported is not None:
            raise UserError(f"{storage.redact(self.uri)} is an exported model: save the checkpoint that it was made of")
        if not isinstance(evaluations, Sequence) or not all(isinstance(each, Evaluated) for each in evaluations):
            raise UserError("evaluations is a list of what foodseg.evaluate returns, for example [scored]")
        if storage.list_names(where):
            raise UserError(f"{storage.redact(where)} is not empty: name a folder that is new, nothing is replaced")
        checkpoint = replace(self._checkpoint, config=without_locations(self.config), trainer=None)
        scores = card_scores(self._checkpoint, storage.redact(self.uri), [each.to_json() for each in evaluations])
        title = name or storage.without_query(storage.absolute(where)).rstrip("/").rpartition("/")[2]
        card = model_card(checkpoint, title, scores, license)
        save_checkpoint(where, checkpoint)
        storage.write_text(storage.join(where, CARD), card)
        return where

    def push_to_hub(
        self,
        repository: str,
        *,
        evaluations: Sequence[Evaluated] = (),
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face hub as one commit; returns the URL of the commit.

        A repository that is missing is created. Where it holds an older model of foodseg, files are replaced, which a
        warning of the log says, and stay in its history; a repository with other files is refused. Then
        `foodseg.load("hf://owner/name")` loads it.

        Args:
            repository: "owner/name".
            evaluations, license: for the model card, as for `save_pretrained`.
            private: of a repository that is created; None = as the account's default is.
            token: None = HF_TOKEN, or the one of `hf auth login`.
            commit_message: None = the number of updates.

        Raises:
            UserError: no such name, no right to it, other files. RetryLater: the hub does not answer.

        >>> import foodseg
        >>> model = foodseg.load("runs/a")
        >>> model.push_to_hub("owner/name", license="cc-by-4.0")  # doctest: +ELLIPSIS
        'http.../owner/name/commit/...'
        >>> foodseg.load("hf://owner/name").step == model.step
        True
        """
        with tempfile.TemporaryDirectory(prefix="foodseg-push-") as folder:
            self.save_pretrained(folder, evaluations=evaluations, license=license, name=repository)
            message = commit_message or f"Model after {self.step} updates"
            return push_folder(folder, repository, commit_message=message, private=private, token=token)

    def _labelling(self, conditioned: bool) -> Labelling:
        if conditioned not in self._labellings:
            overrides = ["eval.ingredients=provided"] if conditioned else []
            config = with_eval_overrides(self.config, overrides)
            if config.eval.ingredients == "provided" and not conditioned:
                raise UserError(
                    "eval.ingredients = provided needs the conditioning classes: "
                    'predict(image, ingredients=["rice", "fried tofu"])'
                )
            calibration = None if self.renamed else calibration_of(self._checkpoint, config.eval)
            shown = eval_of_names(config.eval) if self.renamed else config.eval
            pixels = self._checkpoint.class_pixels
            self._labellings[conditioned] = Labelling(
                Predictor(self._network, shown, self.device, config.train.precision, class_pixels=pixels),
                self.classes,
                ingredients_from=config.eval.ingredients,
                calibrated=calibration is not None,
                temperature=calibration.temperature if calibration else 1.0,
                refiner=self.refiner,
                recheck=self.recheck,
            )
        return self._labellings[conditioned]

    def __repr__(self) -> str:
        model, chosen = self.config.model, self.config.eval
        own = {"open_vocabulary": "open vocabulary", "realtime": f"real time, size {model.realtime.size}"}
        text = own.get(model.kind, f"text fusion {model.fusion}")
        return (
            f"Segmenter({storage.redact(self.uri)!r}: {len(self.classes)} classes, {model.encoders}, "
            f"{text}, {chosen.weights} weights after {self.step} steps, on {self.device})"
        )
