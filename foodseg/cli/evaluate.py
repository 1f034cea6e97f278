"""`foodseg evaluate`: exact scores of a checkpoint, of CLIP or of label maps, and the comparison of two evaluations."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from foodseg.cli.labelled import Recheck, RecheckBelow
from foodseg.cli.options import Address, AsJson, ConfigFile, Device, Overrides, RuntimeName, emit, require_lasting
from foodseg.errors import UserError

if TYPE_CHECKING:
    from foodseg.eval.regions import RegionEvaluation


def evaluate(
    checkpoint: Annotated[
        str | None, typer.Argument(help="A run, a checkpoint directory, a URI of either, or hf://owner/name.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Prepared data set.")] = None,
    split: Annotated[str, typer.Option(help="Which split; every access to `test` is noted (--test-log).")] = "val",
    out: Annotated[str | None, typer.Option(help="Folder or URI for report.html, metrics.json and the counts.")] = None,
    predictions: Annotated[
        str | None, typer.Option(help="Score these <image_id>.png label maps instead of a checkpoint.")
    ] = None,
    zero_shot: Annotated[
        bool,
        typer.Option(
            "--zero-shot",
            help="Score CLIP with the class names of the data set instead of a checkpoint; --config and --set are as "
            "for `foodseg zero-shot`.",
        ),
    ] = False,
    config: ConfigFile = None,
    subset: Annotated[
        list[str] | None, typer.Option(help="File of class ids that is scored under its own name; repeatable.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="File of image ids; only these are scored.")] = None,
    provided: Annotated[
        str | None,
        typer.Option(
            help="Lists of ingredients, a line IMAGE_ID<TAB>NAME, NAME for each image: a menu, where eval.ingredients "
            "is provided, which it then is; left out: the true classes, an oracle."
        ),
    ] = None,
    space_map: Annotated[
        str | None,
        typer.Option("--map", help="TSV file that maps label space FROM to TO, as for `data map`; scores are in TO."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class table (a file of id<TAB>name) of the target label space.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Two --out folders: interval of the difference A - B.", metavar="A B")
    ] = None,
    refine: Annotated[
        str, typer.Option(help="Redraw label maps along masks of Segment Anything: none, vote or soft, as `predict`.")
    ] = "none",
    sam: Annotated[
        str | None,
        typer.Option(help="Weights of Segment Anything; left out: the masks that `data masks` keeps beside the data."),
    ] = None,
    recheck: Recheck = None,
    recheck_below: RecheckBelow = None,
    regions: Annotated[
        str | None,
        typer.Option(
            help="Score how regions are named, not pixels: truth (connected parts of the masks) or sam (masks that "
            "`data masks` keeps). What a region classifier (model.kind roi) always does; left out: as it was trained."
        ),
    ] = None,
    perturb: Annotated[
        str | None, typer.Option(help="With regions: permute (patches of 16 px shuffled) or translocate the views.")
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(help="With regions: file of confused pairs of classes, NAME<TAB>NAME a line.")
    ] = None,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(help="Scoring processes; 0 = this one, without Ray.", min=0)] = 1,
    address: Address = None,
    runtime: RuntimeName = None,
    device: Device = "auto",
    test_log: Annotated[
        str | None,
        typer.Option(help="Test-set access log, a line for each access to `test`; left out: OUT/test_access.jsonl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint, CLIP without training, or label maps exactly; or compare two evaluations.

    Example: foodseg evaluate runs/a --data s3://bucket/meals --split test --out runs/a/test

    Example: foodseg evaluate runs/a --data prepared/other --map to_foodseg103.tsv --out runs/a/other

    Example: foodseg evaluate runs/a --data prepared/meals --provided menu.tsv --out runs/a/menu

    Example: foodseg evaluate --zero-shot --data prepared/meals --set clip.model=ViT-L-14 --out zero-shot

    Example: foodseg evaluate runs/roi --data prepared/meals --pairs confused.tsv --out runs/roi/val

    Example: foodseg evaluate --compare runs/a/test runs/b/test
    """
    if compare is not None:
        _compare(compare, subset or [], as_json)
        return
    if data is None or out is None:
        missing = "--data" if data is None else "--out"
        raise UserError(f"{missing} is missing: foodseg evaluate CHECKPOINT --data URI --split val --out DIR")
    from foodseg.config.zero_shot import ZeroShotConfig, parse_zero_shot_config
    from foodseg.eval.perturb import parse_perturbation
    from foodseg.eval.ray_evaluate import evaluate as run_evaluation
    from foodseg.eval.regions import evaluate_regions, names_regions, parse_regions
    from foodseg.models.exported import parse_runtime
    from foodseg.predict.device import parse_device
    from foodseg.predict.refine import parse_refine
    from foodseg.predict.region_classifier import load_region_classifier
    from foodseg.storage import redact

    require_lasting("--out", out, address)
    if test_log is not None:
        require_lasting("--test-log", test_log, address)
    settings = overrides or []
    if checkpoint is not None and (regions is not None or perturb or pairs or names_regions(checkpoint)):
        refused = {
            "--predictions": predictions, "--zero-shot": zero_shot, "--subset": subset, "--provided": provided,
            "--map": space_map, "--classes": classes, "--sam": sam, "--recheck": recheck,
            "--recheck-below": recheck_below is not None, "--refine": refine != "none", "--config": config,
            "--runtime": runtime,
        }  # fmt: skip
        wrong = next((name for name, value in refused.items() if value), None)
        if wrong is not None:
            raise UserError(f"{wrong} is for scores of pixels, and regions are scored here: leave it out")
        if workers > 1 or address is not None:
            raise UserError("regions are scored in this process: leave out --workers and --address")
        kind, how = parse_regions(regions), parse_perturbation(perturb)
        classifier = load_region_classifier(checkpoint, device=parse_device(device), overrides=settings)
        scored = evaluate_regions(
            classifier, data, split, out=out, images=images, regions=kind, perturb=how, pairs=pairs, test_log=test_log
        )
        emit(scored.to_json(), as_json, lambda: _show_regions(scored, redact(out)))
        return
    if perturb is not None or pairs is not None or regions is not None:
        raise UserError("--regions, --perturb and --pairs score how a CHECKPOINT names regions: give one")
    model: str | ZeroShotConfig | None = checkpoint
    if zero_shot:
        if checkpoint is not None:
            raise UserError("give either a CHECKPOINT or --zero-shot, and not both")
        model, settings = parse_zero_shot_config(config, settings), []
    elif config is not None:
        raise UserError("--config is for --zero-shot: a checkpoint has its own; change eval.* with --set")
    result = run_evaluation(
        model, data=data, split=split, out=out, predictions=predictions, subsets=subset or [], images=images,
        provided=provided, space_map=space_map, classes=classes,
        overrides=settings, workers=workers, address=address, device=parse_device(device),
        refine=parse_refine(refine), sam=sam, recheck=recheck, recheck_below=recheck_below, test_log=test_log,
        runtime=parse_runtime(runtime, where="--runtime"),
    )  # fmt: skip

    def show() -> None:
        from rich.console import Console

        from foodseg.eval.report_markdown import condition_mark, notes, scores_table
        from foodseg.eval.result_files import conditions_note

        Console().print(scores_table(result.evaluation, condition_mark(result.conditions)))
        conditioning = conditions_note(result.conditions)
        print("\n".join([*([f"Ingredients: {conditioning}."] if conditioning else []), *notes(result.evaluation)]))
        print(f"written to {redact(out)}: report.html, report.md, metrics.json, images.parquet")

    emit(result.to_json(), as_json, show)


def _show_regions(scored: "RegionEvaluation", out: str) -> None:
    from foodseg.report.formatting import percent
    from foodseg.report.region_report import headlines

    for name, value, over in headlines(scored.scores):
        print(f"{name} {percent(value)} % ({over})")
    print(f"written to {out}: report.html, report.md, metrics.json, regions.parquet")


def _compare(folders: tuple[str, str], subset: list[str], as_json: bool) -> None:
    from foodseg import storage
    from foodseg.classes import ClassTable
    from foodseg.eval.compare import compare, shown_side
    from foodseg.eval.scoring import read_subsets
    from foodseg.metrics.per_image import read_image_counts

    (a, about_a), (b, about_b) = (read_image_counts(storage.join(folder, "images.parquet")) for folder in folders)
    for key in ("classes", "split", "data"):
        if getattr(about_a, key) != getattr(about_b, key):
            raise UserError(f"--compare: the evaluations differ in their {key}, and cannot be compared image by image")
    classes = ClassTable(about_a.classes)
    result = compare(a, b, len(classes), subsets=read_subsets(subset, classes))
    named = dict(zip("ab", map(storage.redact, folders), strict=True))
    conditions = {"a": about_a.conditions, "b": about_b.conditions}
    oracles = [side for side, each in conditions.items() if each and each.is_oracle]
    plain = {side: None if each is None else each.to_json() for side, each in conditions.items()}

    def show() -> None:
        for side, folder in named.items():
            print(f"{side.upper()}: {shown_side(folder, conditions[side])}")
        print(f"\n{result.to_markdown()}")

    emit({**named, "conditions": plain, "oracles": oracles, **asdict(result)}, as_json, show)
