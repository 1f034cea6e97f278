"""`foodseg export`: a checkpoint as ONNX or OpenVINO, in float32 or int8."""

from dataclasses import asdict
from typing import Annotated

import typer

from foodseg.cli.options import AsJson, Overrides, emit
from foodseg.errors import UserError


def export(
    checkpoint: Annotated[
        str, typer.Argument(help="A run, a checkpoint directory, a URI of either, or hf://owner/name.")
    ],
    out: Annotated[str, typer.Option(help="Folder or URI for the graph and model.json.")],
    form: Annotated[str, typer.Option("--format", help="onnx or openvino.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Weights and activations in 8 bits; needs --calibrate.")] = False,
    web: Annotated[
        bool,
        typer.Option("--web", help="A page too, OUT/index.html, that runs the ONNX graph in a browser, offline."),
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="Prepared data set: int8 is calibrated on its train; on its val the graph is compared with the "
            "checkpoint, and the mIoU of int8 measured."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="File to compare on instead; repeatable. With neither: synthetic meals."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Export a segmenter as a graph that needs neither foodseg nor torch; compared with PyTorch before it is written.

    predict, evaluate, serve and foodseg.load take the folder as a CHECKPOINT.

    Example: foodseg export runs/a --out exported/a --calibrate prepared/meals

    Example: foodseg export runs/a --out exported/a8 --format openvino --int8 --calibrate prepared/meals

    Example: foodseg export runs/a --out exported/a --web

    Example: foodseg predict exported/a lunch.jpg --out labelled
    """
    from foodseg.export.export import export_model
    from foodseg.models.exported import FILES

    chosen = next((each for each in FILES if each == form), None)
    if chosen is None:
        raise UserError(f"--format {form!r}: use {' or '.join(FILES)}")
    done = export_model(
        checkpoint, out, form=chosen, int8=int8, web=web, calibrate=calibrate, images=images or [],
        overrides=overrides or [],
    )  # fmt: skip

    def show() -> None:
        found = done.comparison
        sizes = ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for name, size in done.files.items())
        print(f"{done.out}: {sizes}, model.json; {done.format}, {done.precision}, opset {done.opset}")
        size = (
            "any batch and size" if done.canvas is None else f"any batch, images of {done.canvas[0]} x {done.canvas[1]}"
        )
        print(f"takes {size}")
        print(
            f"compared with PyTorch on {done.compared_on}: logits differ by at most {found.largest_difference:.2g} "
            f"(greatest: {found.largest_logit:.3g}), {100 * found.equal_ids:.2f} % of the pixels have the same id"
        )
        if done.miou_before is not None and done.miou_after is not None:
            print(
                f"mIoU on val: {100 * done.miou_before:.2f} before, {100 * done.miou_after:.2f} after "
                f"({100 * (done.miou_after - done.miou_before):+.2f})"
            )

    emit(asdict(done), as_json, show)
