"""How the variants that are compared differ from the peer's recipe (peer_recipe.yaml), as `--set` values.

All variants start with the same backbone, decoder and classifier, and see the same images in the same order. {names} is
a table of sentence embeddings of the class names (MiniLM, not CLIP), {permuted} the same with the names exchanged,
{random} has random ones (`foodmix.class_embeddings`).
"""

Settings = tuple[str, ...]

CONDITIONED: Settings = ("model.ingredient_head=true", "loss.ingredients=0.2", "model.text.kind=table")
SCORE_MAP: Settings = ("loss.score_map=0.4", *CONDITIONED)
TEXT: Settings = ("model.fusion=score_map", "model.fusion_stride=8", *SCORE_MAP)
NAMES: Settings = (*TEXT, "model.text.table={names}")
DISTILL: Settings = ("loss.distill=0.5", "loss.features=0.1")

PLAIN = "A image only"
TEXT_VARIANTS: dict[str, Settings] = {
    "C names": NAMES,
    "C1 names permuted": (*TEXT, "model.text.table={permuted}"),
    "D C and distillation": (*NAMES, *DISTILL, "distill.teacher_conditioning=vocabulary"),
    "E D, teacher conditioned on the true classes": (*NAMES, *DISTILL, "distill.teacher_conditioning=present"),
}

# Those that are also trained at 128 px on train, to be scored on val, by the names of their runs.
SCOUTED_VARIANTS: dict[str, Settings] = {
    "plain": (),
    "score map": ("model.fusion=score_map", *SCORE_MAP, "model.text.table={names}"),
    "score map at stride 8": NAMES,
    "cross attention at stride 8": (
        "model.fusion=cross_attention", *CONDITIONED, "model.text.table={names}", "model.fusion_stride=8",
    ),
    "distillation": DISTILL,
}  # fmt: skip

# The best recipe of 0.1.0, chosen by the figures of `recipe/scout` before test was first read, and how it is scored.
RARE: Settings = ("data.repeat_threshold=0.1", "augment.class_aware=0.5")
FASTER_ENCODER = "optim.backbone_lr_factor=0.3"
LARGE: Settings = ("augment.longest_side=320", "augment.crop=288")
EARLIER: Settings = (*RARE, FASTER_ENCODER, *LARGE)
EARLIER_SCORED: Settings = ("eval.flip=true", "eval.longest_side=400")

# What a row is conditioned on.
VOCABULARY: Settings = ("eval.ingredients=vocabulary",)
PREDICTED: Settings = ("eval.ingredients=predicted",)
STUDENT = "eval.weights=student"

SCALES: Settings = ("eval.scales=[0.8,1.0,1.25]",)

# Half the seconds of a ViT on a processor with bfloat16 units, and those of a convolutional network.
BF16 = "train.precision=bf16"

# A plain ViT as the backbone, and beside the convolutional one; {vit} is the file of its weights.
VIT = "vit_small_patch14_dinov2"
PLAIN_VIT: Settings = (
    f"model.backbone={VIT}", "model.weights={vit}", "model.mean=[0.485,0.456,0.406]", "model.std=[0.229,0.224,0.225]",
)  # fmt: skip
HYBRID: Settings = (f"model.vit.backbone={VIT}", "model.vit.weights={vit}")
SLOWER = "model.vit.lr_factor=0.1"  # 3e-5 for the last block, where the convolutional encoder has 3e-4
LAST_BLOCKS: Settings = (*HYBRID, "model.vit.trained=last", SLOWER)
WHOLE_VIT: Settings = (*HYBRID, "model.vit.trained=full", SLOWER)

# The best recipe and the best cheap one, chosen out of fold (`encoders`, `recipe_changes`) before test was opened for
# them, and how they are scored.
CHOSEN: Settings = (*RARE, FASTER_ENCODER, "loss.lovasz=0.5", BF16)
BEST: Settings = (*CHOSEN, *WHOLE_VIT, *LARGE)
BEST_SCORED: Settings = EARLIER_SCORED
CHEAP: Settings = (*CHOSEN, *LAST_BLOCKS, "augment.longest_side=256", "augment.crop=256")
CHEAP_SCORED: Settings = ("eval.flip=true", "eval.longest_side=320")
