"""What the student learns from the teacher, as sums over pixels: divided in the loop, like `losses/segmentation.py`.

Terms are taken at the stride at which both networks speak, that of the logits, of a decoder stage or of an attention
map, and not at that of the image: bilinear resizing adds nothing to compare, and at stride 4 this is a sixteenth of
the work. Each place weighs as many pixels as it holds that are no padding, labelled or not, so that the divisor is a
number of pixels, once for each map that is compared.

Shapes: B images, K classes, T tokens, C channels, h x w places.
"""

import torch
from torch.linalg import vector_norm
from torch.nn.functional import interpolate, normalize

SMALLEST_NORM = 1e-3  # a shorter feature has no direction to follow: its gradient would be huge
SMALL_SHARE = 1e-4  # of attention, added to all: what the student may not look at has 0, which has no logarithm


def divergence_sum(
    student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over classes and pixels (Hinton et al., 2015).

    Args:
        student: (B, K, h, w) float logits.
        teacher: the same of the teacher; no gradient goes there.
        pixels: (B, h, w) float, how many pixels each place stands for (`views.real_pixels_per_cell`).
        temperature: T; the factor T^2 keeps the gradient's size whatever T is.

    Returns:
        Scalar float32, whatever the autocast type. Divide by the pixels of all ranks.
    """
    own = (student.float() / temperature).log_softmax(1)
    with torch.no_grad():
        told = (teacher.float() / temperature).log_softmax(1)
        share = told.exp()
        negative_entropy = (share * told).sum(1)
    divergence = negative_entropy - (share * own).sum(1)
    return temperature**2 * (divergence * pixels).sum()


def feature_distance_sum(student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """1 - cosine of two feature maps (B, C, h, w), summed over pixels (B, h, w); no gradient goes to the teacher.

    The student's features are what its classifier sees, so after dropout: it never quite reaches 0 in training.
    """
    # not torch's cosine_similarity, which normalises both maps on the way to the gradient: twice the time
    direction = normalize(teacher.detach().float(), dim=1, eps=SMALLEST_NORM)
    own = student.float()
    cosine = (own * direction).sum(1) / vector_norm(own, dim=1).clamp_min(SMALLEST_NORM)
    return ((1 - cosine) * pixels).sum()


def deeper_distance_sum(student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """`feature_distance_sum` of a decoder stage and the teacher's next deeper one, resized to it.

    The deepest stage sees the most of the image; going down, each stage is shown what the one below it should keep
    (within one network: Zhang et al., 2019, "Be your own teacher").

    Args:
        student: (B, C, h, w) float. teacher: (B, C, h', w') float, at about half the size. pixels: (B, h, w) float.
    """
    size = student.shape[-2:]
    resized = interpolate(teacher.detach().float(), size=size, mode="bilinear", align_corners=False)
    return feature_distance_sum(student, resized, pixels)


def attention_divergence_sum(student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of the attention of each place to the names, summed over tokens and pixels.

    Args:
        student: (B, T, h, w) float, shares that sum to 1 over the tokens; 0 for one that is not on the list.
        teacher: the same of the teacher, perhaps with another list; no gradient goes there.
        pixels: (B, h, w) float, as for `divergence_sum`.

    Returns:
        Scalar float32. 1e-4 is added to each share in the logarithms, so that both stay finite. The gradient of what
        is not on the student's list ends at its softmax, which gives it 0 whatever its score.
    """
    told = teacher.detach().float()
    divergence = (told * ((told + SMALL_SHARE).log() - (student.float() + SMALL_SHARE).log())).sum(1)
    return (divergence * pixels).sum()


def ramp(step: int, total_steps: int, warmup: float, rise: float) -> float:
    """Factor of the divergence's weight at update number `step` (0, 1, ...): 0, then linearly up to 1.

    In the learning rate's warm-up the teacher still knows nothing.

    Args:
        warmup: share of the steps before the rise (`optim.warmup`).
        rise: share of the steps that the rise takes; 0 = at once.
    """
    done = step + 1 - round(warmup * total_steps)
    return min(1.0, max(0, done) / max(1, round(rise * total_steps)))
