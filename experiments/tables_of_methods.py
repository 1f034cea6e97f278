"""Tables of what models reach: the peer, recipes, text, distillation, the diffusion backbone."""

from collections.abc import Callable, Mapping
from typing import Any

from experiments.recorded import figures, interval, percent, shown, source, table
from experiments.variants import PLAIN, TEXT_VARIANTS

SEEDS = ("0", "1")
SUBSETS = {"headline": "19 headline classes", "core": "25 core classes", "soy": "7 soy classes"}


def headline() -> str:
    best, peers = figures("recipe", "best"), figures("parity", "parity")
    rows = []
    for subset, name in SUBSETS.items():
        ours = [best[f"best recipe, seed {seed}"]["vocabulary"] for seed in SEEDS]
        peer = [peers[f"seed {seed}"]["scores"]["peer"] for seed in SEEDS]
        own, other = ([percent(one["subsets"][subset]["miou"]) for one in side] for side in (_scores(ours), peer))
        differences = [interval(one["minus_peer"]["subsets"][subset]) for one in ours]
        rows.append((name, *map(", ".join, (own, other, differences))))
    header = ["mIoU on test, seeds 0 and 1", ">foodseg, best recipe of 0.1.0", ">peer", ">difference"]
    return _with(header, rows, "recipe/best", "parity/parity")


def parity() -> str:
    found = figures("parity", "parity")
    rows = []
    for subset, name in SUBSETS.items():
        for seed, one in found.items():
            ours, peer = (percent(one["scores"][side]["subsets"][subset]["miou"]) for side in ("ours", "peer"))
            rows.append((name, seed[5:], ours, peer, interval(one["ours_minus_peer"]["subsets"][subset])))
    return _with(["mIoU on test", "seed", ">foodseg", ">peer", ">difference"], rows, "parity/parity")


def recipe() -> str:
    found = figures("recipe", "best")
    rows = []
    for subset, name in SUBSETS.items():
        for seed in SEEDS:
            best = found[f"best recipe, seed {seed}"]["vocabulary"]
            scoring = found[f"{PLAIN}, seed {seed}"]["320 px, mirrored"]
            score = percent(best["scores"]["subsets"][subset]["miou"])
            differences = (interval(one["minus_peer"]["subsets"][subset]) for one in (best, scoring))
            rows.append((name, seed, score, *differences))
    header = [
        "mIoU on test",
        "seed",
        ">best recipe of 0.1.0",
        ">minus the peer",
        ">plain, scored at 320 px, mirrored, minus the peer",
    ]
    return _with(header, rows, "recipe/best")


def scout() -> str:
    rows = []
    for name, found in figures("recipe", "scout").items():
        scores = [score for key, score in found.items() if key != "settings"]
        shares = [percent(each) for one in scores for each in (one["miou"], one["subsets"]["headline"]["miou"])]
        rows.append((name, *shares))
    header = ["one seed, val", ">mIoU", ">headline", ">mIoU, larger and mirrored", ">headline, larger and mirrored"]
    return _with(header, rows, "recipe/scout")


def cost() -> str:
    rows = [
        (shown(name), f"{one['seconds']:.2f}", f"{one.get('times_peer', 1):.2f}", f"{one['peak_mib']:,}")
        for name, one in figures("cost", "update").items()
    ]
    header = ["an update of 8 images", ">seconds", ">times the peer's", ">peak memory, MiB"]
    return _with(header, rows, "cost/update")


def text() -> str:
    ways = ("vocabulary", "predicted", "provided (oracle)")
    plain = figures("recipe", "best")[f"{PLAIN}, seed 0"]["vocabulary"]
    rows = [(shown(PLAIN), _minus_peer(plain), "-", "-")]
    found = figures("text_and_distillation", "variants")
    rows += [(shown(name), *(_minus_peer(found[f"{name}, seed 0"][way]) for way in ways)) for name in TEXT_VARIANTS]
    header = ["headline mIoU on test, seed 0", *(f">conditioned on {way}" for way in ways)]
    return _with(header, rows, "text_and_distillation/variants", "recipe/best")


def text_contrasts() -> str:
    found = figures("text_and_distillation", "variants")
    rows = []
    for name in ("text", "meaning of text", "distillation", "privilege"):
        one = found[name]
        rows.append((name, _sides(one), *(interval(one["subsets"][subset]) for subset in SUBSETS)))
    header = ["difference, seed 0", "of", *(f">{subset}" for subset in SUBSETS)]
    return _with(header, rows, "text_and_distillation/variants")


def reasons() -> str:
    rows = []
    for name, one in figures("text_and_distillation", "reasons").items():
        use = one.get("conditioning", one.get("lists"))
        shares = ["-"] * 4 if use is None else [percent(value) for value in use.values()]
        rows.append((shown(name), f"{one['losses']['cross_entropy']:.3f}", *shares))
    header = [
        "seed 0", ">cross entropy, last fifth of training", ">precision of the prediction, %", ">recall, %",
        ">labels that true classes change, %", ">that wrong classes change, %",
    ]  # fmt: skip
    return _with(header, rows, "text_and_distillation/reasons")


def ablation() -> str:
    found = figures("ablation", "ablation")
    rows = []
    for name in found["student"]["variants"]:
        cells = [_spread(found, weights, "variants", name, subset) for subset, weights in WAYS]
        rows.append((shown(name), *cells))
    return _with(["mIoU on test, 5 seeds", *WAY_NAMES], rows, "ablation/ablation")


def ablation_contrasts() -> str:
    found = figures("ablation", "ablation")
    rows = []
    for name, one in found["student"]["contrasts"].items():
        cells = [_spread(found, weights, "contrasts", name, subset) for subset, weights in WAYS]
        rows.append((name, _sides(one), *cells))
    return _with(["difference, 5 seeds", "of", *WAY_NAMES], rows, "ablation/ablation")


def winner_val() -> str:
    rows = [(shown(name), percent(miou)) for name, miou in figures("ablation", "winner")["val"].items()]
    return _with(["one seed, 128 px", ">mIoU on val"], rows, "ablation/winner")


def winner() -> str:
    found = figures("ablation", "winner")
    rows = []
    for name, one in found["variants"].items():
        cells = []
        for subset in ("headline", "soy"):
            seeds = ", ".join(percent(score) for score in one[subset]["seeds"].values())
            contrast = found["contrasts"].get(name)
            cells += [f"{percent(one[subset]['mean'])} ({seeds})", interval(contrast[subset]) if contrast else "-"]
        rows.append((shown(name), *cells))
    header = ["256 px, 1,180 updates, test", ">headline (seeds 0, 1)", ">minus A", ">soy (seeds 0, 1)", ">minus A"]
    return _with(header, rows, "ablation/winner")


def diffusion() -> str:
    found = figures("diffusion", "variants")["val_miou"]
    names = {"names": "names, whole vocabulary", "image only": "image only"}
    rows = [(names.get(name, f"names, {name}"), ", ".join(map(percent, scores))) for name, scores in found.items()]
    return _with(["tiny model, mIoU on val", ">three seeds"], rows, "diffusion/variants")


def diffusion_cost() -> str:
    found = figures("diffusion", "cost")
    rows = [(name, f"{one['seconds']:.2f}", f"{one['peak_mib']:,}") for name, one in found.items()]
    return _with(["tiny model, an update of 8 images", ">seconds", ">peak memory, MiB"], rows, "diffusion/cost")


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made
    for made in (
        headline, parity, recipe, scout, cost, text, text_contrasts, reasons, ablation, ablation_contrasts, winner_val,
        winner, diffusion, diffusion_cost,
    )
}  # fmt: skip

WAYS = [(subset, weights) for subset in ("headline", "soy") for weights in ("student", "ema")]
WAY_NAMES = [f">{subset}, {'student' if weights == 'student' else 'averaged'}" for subset, weights in WAYS]


def _with(header: list[str], rows: list[tuple[str, ...]], *items: str) -> str:
    return f"{table(header, rows)}\n\n{source(*items)}"


def _scores(sides: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["scores"] for one in sides]


def _minus_peer(one: Mapping[str, Any]) -> str:
    """Headline mIoU, in brackets minus the peer with its interval."""
    against = interval(one["minus_peer"]["subsets"]["headline"]).replace(" (", "; ").removesuffix(")")
    return f"{percent(one['scores']['subsets']['headline']['miou'])} ({against})"


def _sides(one: Mapping[str, Any]) -> str:
    """ "C - A", of a contrast."""
    names = (name.replace("its own guess", "predicted") for name in one["variants"])
    return " - ".join(name.split(" ")[0] + (" predicted" if "predicted" in name else "") for name in names)


def _spread(found: Mapping[str, Any], weights: str, kind: str, name: str, subset: str) -> str:
    """Mean and deviation over seeds, 95 % interval over near-duplicate groups and seeds, * where it leaves 0 out."""
    if name == "peer" and weights == "ema":  # it keeps no average: its student stands for it
        return "-"
    one = found[weights][kind][name][subset]
    deviation = f"\u00b1 {percent(one['deviation'])}"
    if kind == "contrasts":
        mark = " *" if one["low"] > 0 or one["high"] < 0 else ""
        difference, _, rest = interval(one).partition(" ")
        return f"{difference} {deviation} {rest}{mark}"
    return f"{percent(one['mean'])} {deviation} ({percent(one['low'])} to {percent(one['high'])})"
