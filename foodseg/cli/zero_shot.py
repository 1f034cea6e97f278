"""`foodseg zero-shot`: label maps of images for any names, without a trained model."""

from typing import Annotated

import typer

from foodseg.cli.labelled import Formats, Images, Out, Refine, show_labelled
from foodseg.cli.options import AsJson, ConfigFile, Device, Overrides


def zero_shot(
    images: Images,
    names: Annotated[
        str,
        typer.Option(
            help="What to look for, names with commas between; several words for one with bars between, of which the "
            'first is the label: "kimchi, white rice|steamed rice".'
        ),
    ],
    out: Out,
    formats: Formats = None,
    refine: Refine = "none",
    sam: Annotated[
        str | None,
        typer.Option(
            help="Weights of segment-anything or MobileSAM, a file or s3://, for --refine and for dense.external=sam."
        ),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Label images with any names, without a trained model: CLIP compares each patch of an image with them.

    Background is what fits none of the names. The weights, OpenAI's ViT-B-16 unless clip.model and clip.weights say
    otherwise, are fetched once from their hub; a file or a folder of them works offline.

    Example: foodseg zero-shot lunch.jpg --names "kimchi, white rice|steamed rice, egg" --out labelled

    Example: foodseg zero-shot meals/ --names "tofu, rice" --set clip.model=ViT-L-14 --set clip.weights=openai --out x

    Example: foodseg zero-shot lunch.jpg --names "tofu, rice" --set dense.attention=proxy
    --set dense.external=vit_small_patch14_dinov2 --out labelled
    """
    from foodseg.predict.device import parse_device
    from foodseg.predict.label import parse_formats, zero_shot_images
    from foodseg.predict.refine import parse_refine

    wanted = parse_formats(formats or [])
    done = zero_shot_images(
        names, images, out, overrides or [], config=config, device=parse_device(device), formats=wanted,
        refine=parse_refine(refine), sam=sam,
    )  # fmt: skip
    show_labelled(done, wanted, out, as_json, trained=False)
