"""An open-vocabulary model for other names than the classes that it was fitted to.

network = named_network(model, checkpoint, parse_names("kimchi, white rice|steamed rice"))
"""

from foodseg.checkpoint.checkpoint import Checkpoint
from foodseg.config.evaluation import EvalConfig
from foodseg.errors import UserError
from foodseg.models.clip.names import Names
from foodseg.models.open_vocabulary import NamedSegmenter, OpenVocabularyNetwork
from foodseg.models.text.embed import embed_words


def eval_of_names(config: EvalConfig) -> EvalConfig:
    """Returns how images are shown, without what belongs to the trained classes: how often each occurs, and lists."""
    return config.model_copy(update={"logit_adjustment": 0.0, "ingredients": "vocabulary", "restrict": "none"})


def named_network(network: object, checkpoint: Checkpoint, names: Names, where: str) -> NamedSegmenter:
    """Returns the network with names as its label space. A name of a trained class has what was learned of that class.

    Args:
        network: of the checkpoint, on its device. where: what errors call the model.

    Raises:
        UserError: the model has no open vocabulary; no encoder for other names.
    """
    if checkpoint.exported is not None:
        raise UserError(
            f"the model {where} is exported, with the text of its {len(checkpoint.classes)} classes as constants: for "
            "other names use the checkpoint that it was made of"
        )
    if not isinstance(network, OpenVocabularyNetwork) or checkpoint.text is None:
        raise UserError(
            f"the model {where} knows the {len(checkpoint.classes)} classes that it was trained on alone: other names "
            "need one of model.kind = open_vocabulary, or foodseg zero-shot"
        )
    words = [word for own in names.words for word in own]
    owners = [index for index, own in enumerate(names.words, start=1) for _ in own]
    trained = {name.lower(): index for index, name in enumerate(checkpoint.classes.names)}
    embedded = embed_words(checkpoint.text, checkpoint.config.model.text, words)
    return NamedSegmenter(network, embedded, owners, [trained.get(word.lower(), -1) for word in words])
