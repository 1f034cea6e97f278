"""Draws meals with exact masks: the offline substitute for photographs. Pictures made here are always called "drawn".

A meal is a textured table, a plate, bowl or tray, and two to seven ingredients whose pieces overlap and cast shadows.
Pieces are laid one on the other without anti-aliasing; light, lens blur and sensor noise come after and touch only the
picture, so that every mask pixel names the piece drawn last over it.

    write_meals(Path("drawn"), train=40, test=10, seed=0)
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.errors import UserError

PLATE_CLASSES = ClassTable(
    ("background", "white rice", "noodles", "salmon", "chicken", "tofu", "fried egg", "broccoli", "green beans")
    + ("carrot", "tomato", "cucumber", "lemon")
)

MIN_SIDE = 32
MEALS_PER_SEED = 100_000
ASPECTS = ((4, 3), (1, 1), (3, 4), (3, 2), (2, 3), (16, 9))  # width : height, dealt in turn

Colour = tuple[float, float, float]
Point = tuple[float, float]


def draw_meal(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one meal; the same seed and size give the same bytes on every run.

    Args:
        seed: >= 0.
        height, width: pixels, at least `MIN_SIDE` each.

    Returns:
        image (H, W, 3) uint8 RGB and mask (H, W) uint8, ids of `PLATE_CLASSES`, without ignored pixels.

    Raises:
        UserError: the picture would be too small to hold a meal, or the seed is negative.
    """
    if min(height, width) < MIN_SIDE:
        raise UserError(f"a drawn meal needs at least {MIN_SIDE} x {MIN_SIDE} pixels, asked for {height} x {width}")
    if seed < 0:
        raise UserError(f"the seed of a drawn meal must be 0 or more, found {seed}")
    rng = np.random.default_rng(seed)
    meal = _Meal(rng, height, width)
    radius = meal.unit * rng.uniform(0.42, 0.56)
    _cutlery(meal, radius)
    room = _dish(meal, radius)
    _serve(meal, room)
    return _photograph(meal), meal.mask


def write_meals(folder: Path, train: int, test: int, seed: int, longest_side: int = 320) -> None:
    """Writes drawn meals in the folder format: images, masks, classes.txt, and the split lists last.

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
    stems = []
    for number in range(1, train + test + 1):
        across, down = ASPECTS[number % len(ASPECTS)]
        scale = longest_side / max(across, down)
        image, mask = draw_meal(seed * MEALS_PER_SEED + number, round(down * scale), round(across * scale))
        stem = f"drawn__{number:04d}"
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _write(
            folder / "images" / f"{stem}.jpg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        )
        _write(folder / "masks" / f"{stem}.png", cv2.imencode(".png", mask)[1].tobytes())
        stems.append(stem)
    _write(folder / "classes.txt", PLATE_CLASSES.to_text().encode())
    for name, part in zip(splits, (stems[:train], stems[train:]), strict=True):
        _write(folder / name, "".join(f"{stem}\n" for stem in part).encode())


def _write(path: Path, data: bytes) -> None:
    """Writes under a temporary name and renames, so that a torn file never bears the final name."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


class _Meal:
    """A picture being drawn. Pieces are made flat, in square windows, and foreshortened by `tilt` when they are laid.

    image: (H, W, 3) float32 RGB, about [0, 255]; mask: (H, W) uint8 class ids. `unit` is the shorter side in pixels:
    lengths are shares of it, so that a meal looks alike at any size. `centre` is (x, y) of the dish.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.unit = min(height, width)
        self.tilt = rng.uniform(0.78, 1.0)
        self.centre = (width * rng.uniform(0.44, 0.56), height * rng.uniform(0.46, 0.54))
        self.mask = np.full((height, width), BACKGROUND, np.uint8)
        self.image = _table(rng, height, width)
        fine = cv2.GaussianBlur(rng.standard_normal((self.unit, self.unit), dtype=np.float32), (3, 3), 0) * 1.6
        coarse = cv2.resize(rng.standard_normal((24, 24), dtype=np.float32), fine.shape, interpolation=cv2.INTER_CUBIC)
        # No window is wider than two units, so that one may be cut out at any offset below one unit.
        self.fine, self.coarse = np.tile(fine, (3, 3)), np.tile(coarse, (3, 3))

    def colour(self, red: float, green: float, blue: float, spread: float = 9.0) -> Colour:
        """Returns the colour a little lighter or darker, and a little off in hue."""
        shift = self.rng.normal(0, spread) + self.rng.normal(0, spread * 0.5, 3)
        return (red + shift[0], green + shift[1], blue + shift[2])

    def mottle(self, side: int, fine: float, coarse: float) -> np.ndarray:
        """Returns (S, S, 1) float32 noise around 0: grain of the strength `fine`, patches of the strength `coarse`."""
        y, x = self.rng.integers(self.unit, size=2)
        cut = (slice(y, y + side), slice(x, x + side))
        return (fine * self.fine[cut] + coarse * self.coarse[cut])[:, :, None]

    def window(self, reach: float, colour: Colour) -> tuple[np.ndarray, np.ndarray, int]:
        """Returns an empty silhouette (S, S) uint8, a plain texture (S, S, 3) float32 and the middle, S // 2."""
        middle = int(reach) + 2
        side = 2 * middle + 1
        return np.zeros((side, side), np.uint8), np.full((side, side, 3), colour, np.float32), middle

    def lay(self, at: Point, silhouette: np.ndarray, texture: np.ndarray, name: str, rise: float) -> None:
        """Lays a piece with its middle at `at` (x, y), before tilting: shadow, then colours and id where it covers.

        Args:
            silhouette: (S, S) uint8, nonzero where the piece covers.
            texture: (S, S, 3) float32 RGB.
            name: of `PLATE_CLASSES`; the table, the dish and the cutlery are background.
            rise: height of the piece as a share of `unit`; sets the shadow and the rounding of the edges.
        """
        x, y, wide, high = cv2.boundingRect(silhouette)
        size = (wide, max(1, round(high * self.tilt)))
        step, pad = max(1, round(self.unit * rise * 0.6)), int(self.unit * rise * 2.5) + 2
        middle = len(silhouette) // 2
        left = round(at[0]) - middle + x - pad
        top = round(self.centre[1] + (at[1] - self.centre[1] - middle + y) * self.tilt) - pad
        cut = (slice(y, y + high), slice(x, x + wide))
        covered = cv2.resize(silhouette[cut], size, interpolation=cv2.INTER_NEAREST)
        covered = cv2.copyMakeBorder(covered, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        texture = cv2.copyMakeBorder(cv2.resize(texture[cut], size), pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        height, width = self.mask.shape
        above, before = max(0, -top), max(0, -left)
        below, behind = min(height - top, covered.shape[0]), min(width - left, covered.shape[1])
        if below <= above or behind <= before:
            return
        inner = (slice(above, below), slice(before, behind))
        outer = (slice(top + above, top + below), slice(left + before, left + behind))
        soft = cv2.GaussianBlur((covered > 0).astype(np.float32), (0, 0), max(0.6, self.unit * rise * 0.7))
        # The light comes from the upper left: edges facing it shine, the shadow falls on the other side.
        shadow = np.roll(soft, (step, step), (0, 1))
        lit = np.roll(soft, (-step, -step), (0, 1)) - shadow
        covers = covered[inner] > 0
        gain = np.where(covers, 1 + 0.32 * lit[inner], 1 - 0.55 * shadow[inner])
        under = self.image[outer]
        cv2.copyTo(texture[inner], covered[inner], under)
        under *= gain[:, :, None]
        self.mask[outer][covers] = PLATE_CLASSES.names.index(name)

    def strewn(self, reach: float, count: int) -> np.ndarray:
        """Returns (N, 2) offsets (x, y), even over a disc of radius `reach`."""
        far, turn = reach * np.sqrt(self.rng.uniform(0, 1, count)), self.rng.uniform(0, 2 * np.pi, count)
        return np.stack((far * np.cos(turn), far * np.sin(turn)), 1)

    def heap(self, at: Point, reach: float, count: int) -> list[Point]:
        """Returns `count` places (x, y): half of the time a fanned row, else a heap, the nearest to the viewer last."""
        if self.rng.random() < 0.5:
            line = np.linspace(-reach, reach, count)
            bow = self.rng.uniform(-0.5, 0.5) * (line**2 / max(reach, 1) - reach / 2)
            places = np.stack((line, bow), 1) @ _spin(self.rng.uniform(0, np.pi))
        else:
            places = self.strewn(reach, count)
        return [(at[0] + x, at[1] + y) for x, y in sorted(places.tolist(), key=lambda place: place[1])]

    def outline(self, middle: int, half: Point, turn: float = 0, wobble: float = 0, square: float = 2) -> np.ndarray:
        """Returns a closed outline (N, 2) int32: an ellipse (`square` 2) to a rectangle (8), wavy, then turned."""
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        waves = [self.rng.normal(0, wobble / k) * np.cos(k * angles + self.rng.uniform(0, 7)) for k in range(2, 7)]
        round_ = np.stack((np.cos(angles), np.sin(angles)), 1)
        points = np.sign(round_) * np.abs(round_) ** (2 / square) * half * (1 + np.sum(waves, 0))[:, None]
        return _pixels(points @ _spin(turn) + middle)


def _spin(turn: float) -> np.ndarray:
    """Returns the (2, 2) matrix that turns rows (x, y) by `turn` radians."""
    return np.array(((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))))


def _pixels(points: np.ndarray) -> np.ndarray:
    return np.rint(points).astype(np.int32)


def _soften(texture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(texture, (0, 0), max(0.5, sigma))


def _table(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns (H, W, 3) float32: planks, a woven cloth or stone."""
    base = np.asarray(_TABLES[rng.integers(len(_TABLES))], np.float32) + rng.normal(0, 10, 3).astype(np.float32)
    kind = rng.integers(3)
    grid = (height, width) if kind == 2 else (height, 6)
    grain, stains = rng.standard_normal(grid, dtype=np.float32), rng.standard_normal((9, 5), dtype=np.float32)
    smooth = cv2.resize(stains, (width, height), interpolation=cv2.INTER_CUBIC)
    pattern = np.asarray(5 * cv2.resize(grain, (width, height)) + 9 * smooth, np.float32)
    ys, xs = (axis.astype(np.float32) / min(height, width) for axis in np.ogrid[:height, :width])
    if kind == 0:
        plank = ys * rng.uniform(3, 6)
        pattern += 8 * np.sin(37.0 * np.floor(plank)) - 40 * (plank % 1 < 0.03)
    elif kind == 1:
        weave = 2 * np.pi * rng.uniform(18, 40)
        pattern += 7 * np.sin(weave * xs) * np.sin(weave * ys) + 18 * (xs * rng.uniform(2, 6) % 1 < 0.15)
    return base + pattern[:, :, None]


def _cutlery(meal: _Meal, radius: float) -> None:
    """Lays a spoon and a knife, or chopsticks, beside the dish: background, as all that nobody eats."""
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


def _dish(meal: _Meal, radius: float) -> float:
    """Lays a plate, bowl or tray; returns the radius (pixels) of the room for food."""
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
        # The wall of a bowl lies in its own shade where it faces away from the light, at the upper left.
        ys, xs = np.ogrid[-c : c + 1, -c : c + 1]
        texture *= np.clip(1 + 0.2 * (xs + ys) / radius, 0.65, 1.1, dtype=np.float32)[:, :, None]
    elif kind == "plate" and rng.random() < 0.4:
        band = int(radius * rng.uniform(room + 0.08, 0.93))
        cv2.circle(texture, (c, c), band, rng.uniform(40, 200, 3).tolist(), int(radius * 0.04) + 1)
    texture += meal.mottle(len(texture), 1.0, 2.5)
    meal.lay(meal.centre, silhouette, texture, "background", 0.03)
    return radius * room


def _serve(meal: _Meal, room: float) -> None:
    """Chooses two to seven ingredients and lays them: what fills the dish first, what garnishes it last."""
    rng = meal.rng
    count = int(rng.integers(2, 8))
    turn = rng.uniform(0, 2 * np.pi)
    for index in sorted(rng.choice(len(_HELPINGS), count, replace=False)):
        draw, share = _HELPINGS[index]
        turn += 2 * np.pi / count + rng.normal(0, 0.15)
        reach = room * share * rng.uniform(0.95, 1.2) * (1.45 if count < 4 else 1.2 if count < 6 else 1.0)
        far = max(0.0, room - reach) * rng.uniform(0.8, 1.0)
        draw(meal, (meal.centre[0] + far * np.cos(turn), meal.centre[1] + far * np.sin(turn)), reach)


def _photograph(meal: _Meal) -> np.ndarray:
    """Returns the picture (H, W, 3) uint8 as a camera sees it: uneven light, a tint, a soft lens, a noisy sensor."""
    height, width = meal.mask.shape
    rng = meal.rng
    slope = rng.uniform(-0.14, 0.14, 2)
    light = 1 + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)[None, :]
    tint = rng.normal(1, 0.03, 3) * rng.uniform(0.88, 1.06)
    image = meal.image * light.astype(np.float32)[:, :, None] * tint.astype(np.float32)
    image = _soften(image, meal.unit * rng.uniform(0.0020, 0.0032))
    image += rng.uniform(1.0, 3.5) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _strands(
    meal: _Meal, at: Point, name: str, heap: float, lines: np.ndarray, ground: Colour, tone: Colour, width: float
) -> None:
    """Lays a heap of radius `heap` under `lines` (N, P, 2), offsets from `at`, with dark flanks and in eight tones."""
    silhouette, texture, c = meal.window(max(heap, np.abs(lines).max()) * 1.1, meal.colour(*ground))
    if heap:
        cv2.fillPoly(silhouette, [meal.outline(c, (heap, heap), 0, 0.05)], 255)
    thick, base = max(1, round(meal.unit * width)), meal.colour(*tone)
    for first in range(8):
        part, shade = list(_pixels(lines[first::8] + c)), np.asarray(meal.colour(*base, 6))
        cv2.polylines(silhouette, part, False, 255, thick + 1)
        cv2.polylines(texture, part, False, (shade * 0.7).tolist(), thick + 1)
        cv2.polylines(texture, part, False, shade.tolist(), thick)
        if thick > 2:
            cv2.polylines(texture, [line - 1 for line in part], False, (shade * 1.14 + 6).tolist(), thick // 3)
    meal.lay(at, silhouette, texture + meal.mottle(len(texture), 3, 3), name, 0.018)


def _rice(meal: _Meal, at: Point, reach: float) -> None:
    count = int(2.6 * (reach / (meal.unit * 0.016)) ** 2)
    middle, lean = meal.strewn(reach * 1.02, count), meal.rng.uniform(0, np.pi, count)
    half = meal.unit * 0.011 * np.stack((np.cos(lean), np.sin(lean)), 1)
    lines = np.stack((middle - half, middle + half), 1)
    _strands(meal, at, "white rice", reach, lines, (204, 199, 186), (236, 233, 224), 0.009)


def _noodles(meal: _Meal, at: Point, reach: float) -> None:
    middle = meal.strewn(reach * 0.6, 64)
    radius = meal.rng.uniform(0.25, 1.0, 64) * (reach - np.hypot(*middle.T))
    arc = np.linspace(0, 1, 16) * meal.rng.uniform(1.2, 3.0, (64, 1))
    angles = meal.rng.uniform(0, 2 * np.pi, (64, 1)) + arc
    lines = middle[:, None] + radius[:, None, None] * np.stack((np.cos(angles), np.sin(angles)), 2)
    _strands(meal, at, "noodles", reach * 0.86, lines, (172, 134, 72), (228, 194, 118), 0.014)


def _beans(meal: _Meal, at: Point, reach: float) -> None:
    count = int(meal.rng.integers(11, 20))
    along = np.linspace(-1, 1, 9) * meal.rng.uniform(0.6, 0.9, (count, 1))
    bow = meal.rng.normal(0, 0.12, (count, 1)) * np.cos(np.linspace(-1.5, 1.5, 9))
    flat = np.stack((along, bow + meal.rng.normal(0, 0.3, (count, 1))), 2) * reach
    leans = meal.rng.uniform(0, np.pi) + meal.rng.normal(0, 0.28, count)
    lines = np.stack([line @ _spin(lean) for line, lean in zip(flat, leans, strict=True)])
    _strands(meal, at, "green beans", 0, lines, (60, 90, 40), (98, 142, 58), 0.026)


def _egg(meal: _Meal, at: Point, reach: float) -> None:
    silhouette, texture, c = meal.window(reach * 1.4, meal.colour(206, 168, 112))
    white = meal.outline(c, (reach, reach), 0, 0.1)
    cv2.fillPoly(silhouette, [white], 255)
    cv2.fillPoly(texture, [_pixels((white - c) * 0.94 + c)], meal.colour(243, 240, 230, 4))
    texture = _soften(texture, meal.unit * 0.008) + meal.mottle(len(texture), 2, 5)
    meal.lay(at, silhouette, texture, "fried egg", 0.012)
    yolk = reach * meal.rng.uniform(0.34, 0.44)
    silhouette, texture, c = meal.window(yolk * 1.2, meal.colour(240, 160, 34))
    cv2.fillPoly(silhouette, [meal.outline(c, (yolk, yolk), 0, 0.02)], 255)
    cv2.circle(texture, (c - int(yolk * 0.3), c - int(yolk * 0.35)), max(1, int(yolk * 0.2)), (255, 236, 180), -1)
    shift = meal.rng.normal(0, reach * 0.12, 2)
    meal.lay((at[0] + shift[0], at[1] + shift[1]), silhouette, _soften(texture, yolk * 0.1), "fried egg", 0.016)


def _broccoli(meal: _Meal, at: Point, reach: float) -> None:
    for place in meal.heap(at, reach * 0.66, int(meal.rng.integers(4, 8))):
        size, turn = reach * meal.rng.uniform(0.3, 0.46), meal.rng.uniform(0, 2 * np.pi)
        silhouette, texture, c = meal.window(size * 1.7, meal.colour(158, 180, 100))
        foot = (int(c + 1.35 * size * np.cos(turn)), int(c + 1.35 * size * np.sin(turn)))
        cv2.line(silhouette, (c, c), foot, 255, max(2, int(size * 0.6)))
        cv2.fillPoly(silhouette, [meal.outline(c, (size, size), 0, 0.12)], 255)
        crown, dot = np.asarray(meal.colour(58, 100, 44)), max(1, int(size * 0.15))
        cv2.circle(texture, (c, c), int(size * 1.12), crown.tolist(), -1)
        for x, y in _pixels(meal.strewn(size * 1.05, 70) + c).tolist():
            light = crown * meal.rng.uniform(0.75, 1.35)
            cv2.circle(texture, (x, y), dot, (light * 0.72).tolist(), -1)
            cv2.circle(texture, (x - 1, y - 1), max(1, dot // 2), light.tolist(), -1)
        meal.lay(place, silhouette, texture + meal.mottle(len(texture), 4, 4), "broccoli", 0.02)


def _slices(meal: _Meal, at: Point, reach: float, *, name: str) -> None:
    """Lays round slices: a skin, the flesh in it, and round the middle the seeds, chambers or rays of a core."""
    skin, flesh, core, spokes, oval, peel, sizes, counts = _CUTS[name]
    size = reach * meal.rng.uniform(*sizes)
    for place in meal.heap(at, max(0.0, reach - size), int(meal.rng.integers(*counts))):
        radius = size * meal.rng.uniform(0.85, 1.1)
        silhouette, texture, c = meal.window(radius * 1.25, meal.colour(*skin))
        cv2.fillPoly(silhouette, [meal.outline(c, (radius, radius), 0, 0.025)], 255)
        cv2.circle(texture, (c, c), int(radius * peel), meal.colour(*flesh, 7), -1)
        middle, turn = meal.colour(*core), meal.rng.uniform(0, 7)
        for angle in turn + 2 * np.pi * np.arange(spokes) / spokes:
            spot = (int(c + radius * 0.5 * np.cos(angle)), int(c + radius * 0.5 * np.sin(angle)))
            axes = (max(1, int(radius * oval[0])), max(1, int(radius * oval[1])))
            cv2.ellipse(texture, spot, axes, np.degrees(angle), 0, 360, middle, -1)
            if name == "tomato":
                cv2.circle(texture, spot, max(1, int(radius * 0.06)), (240, 214, 140), -1)
        meal.lay(place, silhouette, texture + meal.mottle(len(texture), 5, 3), name, 0.011)


def _salmon(meal: _Meal, at: Point, reach: float) -> None:
    turn, half = meal.rng.uniform(0, np.pi), (reach * 1.1, reach * meal.rng.uniform(0.46, 0.64))
    silhouette, texture, c = meal.window(half[0] * 1.25, meal.colour(236, 128, 88))
    cv2.fillPoly(silhouette, [meal.outline(c, half, turn, 0.02, 3.5)], 255)
    across, fat = np.linspace(-1.1, 1.1, 13), meal.colour(250, 196, 168)
    for start in np.arange(-1.2, 1.3, meal.rng.uniform(0.15, 0.24)):
        line = np.stack(((start + 0.22 * np.abs(across)) * half[0], across * half[1]), 1) @ _spin(turn)
        cv2.polylines(texture, [_pixels(line + c)], False, fat, max(1, round(meal.unit * 0.007)))
    texture = _soften(texture, meal.unit * 0.003) + meal.mottle(len(texture), 4, 8)
    meal.lay(at, silhouette, texture, "salmon", 0.024)


def _chicken(meal: _Meal, at: Point, reach: float) -> None:
    turn, count = meal.rng.uniform(0, np.pi), int(meal.rng.integers(3, 6))
    for place in (np.arange(count) - (count - 1) / 2) * 1.5 * reach / count:
        silhouette, texture, c = meal.window(reach * 1.1, meal.colour(164, 100, 48))
        strip = meal.outline(c, (reach * meal.rng.uniform(0.74, 0.88), reach * 0.28), turn, 0.06, 2.6)
        cv2.fillPoly(silhouette, [strip], 255)
        # Cut across, the meat is pale; only the side away from the next strip was seared.
        meat = (strip - c) * 0.94 + c + np.array((0, -0.09 * reach)) @ _spin(turn)
        cv2.fillPoly(texture, [_pixels(meat)], meal.colour(228, 204, 172))
        for along in meal.rng.uniform(-0.7, 0.7, 9) * reach:
            fibre = c + np.array(((along, -0.2 * reach), (along + 0.1 * reach, 0.12 * reach))) @ _spin(turn)
            cv2.polylines(texture, [_pixels(fibre)], False, meal.colour(206, 176, 140), 1)
        texture = _soften(texture, meal.unit * 0.006) + meal.mottle(len(texture), 8, 7)
        meal.lay((at[0] - np.sin(turn) * place, at[1] + np.cos(turn) * place), silhouette, texture, "chicken", 0.018)


def _tofu(meal: _Meal, at: Point, reach: float) -> None:
    cream = (214, 172, 108) if meal.rng.random() < 0.4 else (240, 230, 204)
    for place in meal.heap(at, reach * 0.7, int(meal.rng.integers(4, 9))):
        size = reach * meal.rng.uniform(0.24, 0.34)
        base = np.asarray(meal.colour(*cream))
        silhouette, texture, c = meal.window(size * 2.2, tuple(base * 0.74))
        top = meal.outline(c, (size, size), meal.rng.normal(0, 0.4), 0.01, 7)
        side = top + _pixels(np.array((size * 0.35, size * 0.6)))
        cv2.fillConvexPoly(silhouette, cv2.convexHull(np.concatenate((top, side))), 255)
        cv2.fillPoly(texture, [top], base.tolist())
        meal.lay(place, silhouette, texture + meal.mottle(len(texture), 4, 5), "tofu", 0.014)


# skin, flesh and core (RGB), spokes, half axes of a spoke, radius without peel, then ranges: size, how many slices
_CUTS: dict[str, tuple[Colour, Colour, Colour, int, Point, float, Point, tuple[int, int]]] = {
    "carrot": ((214, 96, 22), (238, 130, 42), (248, 164, 72), 9, (0.3, 0.04), 0.93, (0.26, 0.36), (7, 13)),
    "tomato": ((176, 26, 22), (216, 66, 48), (190, 44, 26), 5, (0.24, 0.23), 0.87, (0.42, 0.6), (3, 6)),
    "cucumber": ((42, 84, 38), (200, 220, 158), (234, 238, 200), 8, (0.13, 0.05), 0.87, (0.38, 0.52), (4, 9)),
    "lemon": ((232, 196, 30), (248, 242, 208), (240, 212, 74), 8, (0.26, 0.14), 0.87, (0.6, 0.8), (1, 4)),
}
_TABLES = ((172, 128, 86), (96, 66, 46), (205, 200, 192), (74, 78, 84), (150, 160, 158), (196, 176, 150), (120, 52, 48))
_GLAZES = ((238, 236, 230),) * 3 + ((232, 226, 210), (70, 84, 104), (52, 50, 52), (206, 216, 218), (186, 120, 84))

# in the order of laying, with the reach of a helping as a share of the room in the dish
_HELPINGS: tuple[tuple[Callable[[_Meal, Point, float], None], float], ...] = (
    (_rice, 0.52),
    (_noodles, 0.54),
    (_salmon, 0.46),
    (_chicken, 0.48),
    (_tofu, 0.44),
    (_egg, 0.44),
    (_broccoli, 0.44),
    (_beans, 0.44),
    (partial(_slices, name="carrot"), 0.40),
    (partial(_slices, name="tomato"), 0.38),
    (partial(_slices, name="cucumber"), 0.38),
    (partial(_slices, name="lemon"), 0.28),
)
