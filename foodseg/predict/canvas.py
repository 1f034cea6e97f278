"""At which size a model sees an image, and the canvas that it is padded to; images of one canvas share a batch.

    fitted_size(EvalConfig(longest_side=512), 375, 500)  # (384, 512)
    pick_canvas(EvalConfig(longest_side=512), 32, 300, 500)  # shown as 307 x 512: (320, 512)

Sizes are (height, width) in pixels.
"""

from collections.abc import Sequence

from foodseg.config.evaluation import EvalConfig
from foodseg.data.image_io import fit_longest

MOST_PADDING = 1.25  # a canvas with more pixels than this many times those needed costs more than it saves


def fitted_size(config: EvalConfig, height: int, width: int, scale: float | None = None) -> tuple[int, int]:
    """Returns the size at which a model sees an image of this size, at one of `eval.scales`; None = at the largest."""
    side = max(height, width) if config.longest_side is None else config.longest_side
    return fit_longest(height, width, side * (max(config.scales) if scale is None else scale))


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Returns the least size that holds this one, of sides that are multiples of `multiple`."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pick_canvas(
    config: EvalConfig,
    multiple: int,
    height: int,
    width: int,
    canvases: Sequence[tuple[int, int]] = (),
    scale: float | None = None,
) -> tuple[int, int]:
    """Returns the size that an image of this size, at a scale as for `fitted_size`, is padded to, right and below.

    That is the smallest of `canvases` that holds it. Else it is the image's own canvas, the least size that the model
    can take, whose sides are multiples of `multiple`: where no canvas holds the image, where the best one is mostly
    padding, and with sliding windows, which depend on the padded size.
    """
    own_height, own_width = padded_size(*fitted_size(config, height, width, scale), multiple)
    if config.window is not None:
        return own_height, own_width
    fits = [
        (tall * wide, tall, wide)
        for tall, wide in canvases
        if tall >= own_height and wide >= own_width and tall % multiple == 0 and wide % multiple == 0
    ]
    if not fits or min(fits)[0] > MOST_PADDING * own_height * own_width:
        return own_height, own_width
    return min(fits)[1:]
