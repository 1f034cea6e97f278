"""Draws meals with exact masks: the offline substitute for photographs. Images made here are always called "synthetic".

A meal is a textured table, a plate, bowl or tray, and two to seven ingredients whose pieces overlap and cast shadows.
Pieces are laid one on the other without anti-aliasing; light, lens blur and sensor noise come after and touch only the
image, so that every mask pixel holds the class of the piece drawn last over it.

    write_meals(Path("synthetic"), train=40, test=10, seed=0)
"""

from pathlib import Path

import cv2
import numpy as np

from foodseg.demo.synthetic_ingredients import HELPINGS, SYNTHETIC_CLASSES, Meal, soften
from foodseg.errors import UserError
from foodseg.progress import Progress

MIN_SIDE = 32
MEALS_PER_SEED = 100_000
ASPECTS = ((4, 3), (1, 1), (3, 4), (3, 2), (2, 3), (16, 9))  # width : height, used in turn
_GLAZES = ((238, 236, 230),) * 3 + ((232, 226, 210), (70, 84, 104), (52, 50, 52), (206, 216, 218), (186, 120, 84))


def draw_meal(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one meal; the same seed and size give the same bytes on every run.

    Args:
        seed: >= 0.
        height, width: pixels, at least `MIN_SIDE` each.

    Returns:
        image (H, W, 3) uint8 RGB and mask (H, W) uint8, ids of `SYNTHETIC_CLASSES`, without ignored pixels.

    Raises:
        UserError: the image would be too small to hold a meal, or the seed is negative.
    """
    if min(height, width) < MIN_SIDE:
        raise UserError(f"a synthetic meal needs at least {MIN_SIDE} x {MIN_SIDE} pixels, asked for {height} x {width}")
    if seed < 0:
        raise UserError(f"the seed of a synthetic meal must be 0 or more, found {seed}")
    rng = np.random.default_rng(seed)
    meal = Meal(rng, height, width)
    radius = meal.unit * rng.uniform(0.42, 0.56)
    _cutlery(meal, radius)
    room = _dish(meal, radius)
    _serve(meal, room)
    return _photograph(meal), meal.mask


def write_meals(folder: Path, train: int, test: int, seed: int, longest_side: int = 320) -> None:
    """Writes synthetic meals in the folder format: images, masks, classes.txt, and the split lists last.

    No meal of `test` shares its seed with one of `train`. Split lists of an earlier run are removed first, so that a
    folder with both lists is complete.

    Args:
        folder: created if missing; holds images/<stem>.jpg, masks/<stem>.png, classes.txt, train.txt, test.txt after.
        train, test: how many meals, together less than `MEALS_PER_SEED`.
        seed: >= 0; other seeds draw other meals.
        longest_side: pixels; the shorter side follows from `ASPECTS`.

    Raises:
        UserError: a number is out of range.
    """
    if min(train, test) < 0 or not 0 < train + test < MEALS_PER_SEED:
        raise UserError(f"write_meals draws 1 to {MEALS_PER_SEED - 1} meals, asked for {train} train and {test} test")
    splits = ("train.txt", "test.txt")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in splits:
        (folder / name).unlink(missing_ok=True)
    stems = [f"synthetic__{number:04d}" for number in range(1, train + test + 1)]
    with Progress("drawing synthetic meals", len(stems)) as bar:
        for number, stem in enumerate(stems, start=1):
            across, down = ASPECTS[number % len(ASPECTS)]
            scale = longest_side / max(across, down)
            image, mask = draw_meal(seed * MEALS_PER_SEED + number, round(down * scale), round(across * scale))
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
            _write(folder / "images" / f"{stem}.jpg", jpeg.tobytes())
            _write(folder / "masks" / f"{stem}.png", cv2.imencode(".png", mask)[1].tobytes())
            bar.advance(1)
    _write(folder / "classes.txt", SYNTHETIC_CLASSES.to_text().encode())
    for name, part in zip(splits, (stems[:train], stems[train:]), strict=True):
        _write(folder / name, "".join(f"{stem}\n" for stem in part).encode())


def _write(path: Path, data: bytes) -> None:
    """Writes under a temporary name and renames, so that an incomplete file never has the final name."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _cutlery(meal: Meal, radius: float) -> None:
    """Lays a spoon and a knife, or chopsticks, next to the dish: background, as everything inedible."""
    metal = meal.rng.random() < 0.7
    tone = meal.colour(190, 192, 196) if metal else meal.colour(112, 66, 38)
    thick = max(2, int(meal.unit * 0.022))
    for side in (-1, 1):
        silhouette, texture, c = meal.window(radius, tone)
        lean, high = int(radius * meal.rng.uniform(-0.12, 0.12)), int(radius * 0.8)
        cv2.line(silhouette, (c - lean, c - high), (c + lean, c + high), 255, thick)
        if metal:
            size = (thick * 2, high // 5) if side < 0 else (thick, high // 2)
            cv2.ellipse(silhouette, (c - lean, c - high + size[1]), size, 0, 0, 360, 255, -1)
        meal.lay((meal.centre[0] + side * radius * 1.16, meal.centre[1]), silhouette, texture, "background", 0.012)


def _dish(meal: Meal, radius: float) -> float:
    """Lays a plate, bowl or tray; returns the radius (pixels) of the area for food."""
    rng = meal.rng
    glaze = meal.colour(*_GLAZES[rng.integers(len(_GLAZES))])
    silhouette, texture, c = meal.window(radius * 1.2, glaze)
    kind, room = (("plate", 0.74), ("plate", 0.8), ("bowl", 0.88), ("tray", 0.86))[rng.integers(4)]
    half, square = ((radius * 1.12, radius * 0.92), 7.0) if kind == "tray" else ((radius, radius), 2.0)
    # A list of rings from the outside in: edge, rim, the step down to the well, the well.
    for ring, tone in ((1.0, 1.06), (0.975, 0.97), (room + 0.04, 0.84), (room + 0.01, 0.97)):
        outline = meal.outline(c, (half[0] * ring, half[1] * ring), square=square)
        cv2.fillPoly(silhouette, [outline], 255)
        cv2.fillPoly(texture, [outline], [tone * value for value in glaze])
    if kind == "bowl":
        # The wall of a bowl is in its own shade where it faces away from the light, at the upper left.
        ys, xs = np.ogrid[-c : c + 1, -c : c + 1]
        texture *= np.clip(1 + 0.2 * (xs + ys) / radius, 0.65, 1.1, dtype=np.float32)[:, :, None]
    elif kind == "plate" and rng.random() < 0.4:
        band = int(radius * rng.uniform(room + 0.08, 0.93))
        cv2.circle(texture, (c, c), band, rng.uniform(40, 200, 3).tolist(), int(radius * 0.04) + 1)
    texture += meal.mottle(len(texture), 1.0, 2.5)
    meal.lay(meal.centre, silhouette, texture, "background", 0.03)
    return radius * room


def _serve(meal: Meal, room: float) -> None:
    """Chooses two to seven ingredients and lays them: large helpings first, garnishes last."""
    rng = meal.rng
    count = int(rng.integers(2, 8))
    turn = rng.uniform(0, 2 * np.pi)
    for index in sorted(rng.choice(len(HELPINGS), count, replace=False)):
        draw, share = HELPINGS[index]
        turn += 2 * np.pi / count + rng.normal(0, 0.15)
        reach = room * share * rng.uniform(0.95, 1.2) * (1.45 if count < 4 else 1.2 if count < 6 else 1.0)
        far = max(0.0, room - reach) * rng.uniform(0.8, 1.0)
        draw(meal, (meal.centre[0] + far * np.cos(turn), meal.centre[1] + far * np.sin(turn)), reach)


def _photograph(meal: Meal) -> np.ndarray:
    """Returns the image (H, W, 3) uint8 as a camera sees it: uneven light, a tint, a soft lens, a noisy sensor."""
    height, width = meal.mask.shape
    rng = meal.rng
    slope = rng.uniform(-0.14, 0.14, 2)
    light = 1 + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)[None, :]
    tint = rng.normal(1, 0.03, 3) * rng.uniform(0.88, 1.06)
    image = meal.image * light.astype(np.float32)[:, :, None] * tint.astype(np.float32)
    image = soften(image, meal.unit * rng.uniform(0.0020, 0.0032))
    image += rng.uniform(1.0, 3.5) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
