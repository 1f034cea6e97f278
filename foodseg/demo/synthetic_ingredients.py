"""The canvas of a synthetic meal, and how each ingredient is drawn on it: rice, noodles, salmon and so on in
`HELPINGS`.

Pieces are laid one on the other without anti-aliasing, so that every mask pixel holds the class of the piece drawn last
over it.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from foodseg.classes import BACKGROUND, ClassTable

SYNTHETIC_CLASSES = ClassTable(
    ("background", "white rice", "noodles", "salmon", "chicken", "tofu", "fried egg", "broccoli", "green beans")
    + ("carrot", "tomato", "cucumber", "lemon")
)

Colour = tuple[float, float, float]
Point = tuple[float, float]


class Meal:
    """An image being drawn. Pieces are made flat, in square windows, and foreshortened by `tilt` when they are laid.

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
            name: of `SYNTHETIC_CLASSES`; the table, the dish and the cutlery are background.
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
        self.mask[outer][covers] = SYNTHETIC_CLASSES.names.index(name)

    def strewn(self, reach: float, count: int) -> np.ndarray:
        """Returns (N, 2) offsets (x, y), even over a disc of radius `reach`."""
        far, turn = reach * np.sqrt(self.rng.uniform(0, 1, count)), self.rng.uniform(0, 2 * np.pi, count)
        return np.stack((far * np.cos(turn), far * np.sin(turn)), 1)

    def heap(self, at: Point, reach: float, count: int) -> list[Point]:
        """Returns `count` positions (x, y): a fanned row or, as often, a heap; the nearest to the viewer last."""
        if self.rng.random() < 0.5:
            line = np.linspace(-reach, reach, count)
            bow = self.rng.uniform(-0.5, 0.5) * (line**2 / max(reach, 1) - reach / 2)
            positions = np.stack((line, bow), 1) @ _spin(self.rng.uniform(0, np.pi))
        else:
            positions = self.strewn(reach, count)
        return [(at[0] + x, at[1] + y) for x, y in sorted(positions.tolist(), key=lambda position: position[1])]

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


def soften(texture: np.ndarray, sigma: float) -> np.ndarray:
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


def _strands(
    meal: Meal, at: Point, name: str, heap: float, lines: np.ndarray, ground: Colour, tone: Colour, width: float
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


def _rice(meal: Meal, at: Point, reach: float) -> None:
    count = int(2.6 * (reach / (meal.unit * 0.016)) ** 2)
    middle, lean = meal.strewn(reach * 1.02, count), meal.rng.uniform(0, np.pi, count)
    half = meal.unit * 0.011 * np.stack((np.cos(lean), np.sin(lean)), 1)
    lines = np.stack((middle - half, middle + half), 1)
    _strands(meal, at, "white rice", reach, lines, (204, 199, 186), (236, 233, 224), 0.009)


def _noodles(meal: Meal, at: Point, reach: float) -> None:
    middle = meal.strewn(reach * 0.6, 64)
    radius = meal.rng.uniform(0.25, 1.0, 64) * (reach - np.hypot(*middle.T))
    arc = np.linspace(0, 1, 16) * meal.rng.uniform(1.2, 3.0, (64, 1))
    angles = meal.rng.uniform(0, 2 * np.pi, (64, 1)) + arc
    lines = middle[:, None] + radius[:, None, None] * np.stack((np.cos(angles), np.sin(angles)), 2)
    _strands(meal, at, "noodles", reach * 0.86, lines, (172, 134, 72), (228, 194, 118), 0.014)


def _beans(meal: Meal, at: Point, reach: float) -> None:
    count = int(meal.rng.integers(11, 20))
    along = np.linspace(-1, 1, 9) * meal.rng.uniform(0.6, 0.9, (count, 1))
    bow = meal.rng.normal(0, 0.12, (count, 1)) * np.cos(np.linspace(-1.5, 1.5, 9))
    flat = np.stack((along, bow + meal.rng.normal(0, 0.3, (count, 1))), 2) * reach
    leans = meal.rng.uniform(0, np.pi) + meal.rng.normal(0, 0.28, count)
    lines = np.stack([line @ _spin(lean) for line, lean in zip(flat, leans, strict=True)])
    _strands(meal, at, "green beans", 0, lines, (60, 90, 40), (98, 142, 58), 0.026)


def _egg(meal: Meal, at: Point, reach: float) -> None:
    silhouette, texture, c = meal.window(reach * 1.4, meal.colour(206, 168, 112))
    white = meal.outline(c, (reach, reach), 0, 0.1)
    cv2.fillPoly(silhouette, [white], 255)
    cv2.fillPoly(texture, [_pixels((white - c) * 0.94 + c)], meal.colour(243, 240, 230, 4))
    texture = soften(texture, meal.unit * 0.008) + meal.mottle(len(texture), 2, 5)
    meal.lay(at, silhouette, texture, "fried egg", 0.012)
    yolk = reach * meal.rng.uniform(0.34, 0.44)
    silhouette, texture, c = meal.window(yolk * 1.2, meal.colour(240, 160, 34))
    cv2.fillPoly(silhouette, [meal.outline(c, (yolk, yolk), 0, 0.02)], 255)
    cv2.circle(texture, (c - int(yolk * 0.3), c - int(yolk * 0.35)), max(1, int(yolk * 0.2)), (255, 236, 180), -1)
    shift = meal.rng.normal(0, reach * 0.12, 2)
    meal.lay((at[0] + shift[0], at[1] + shift[1]), silhouette, soften(texture, yolk * 0.1), "fried egg", 0.016)


def _broccoli(meal: Meal, at: Point, reach: float) -> None:
    for position in meal.heap(at, reach * 0.66, int(meal.rng.integers(4, 8))):
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
        meal.lay(position, silhouette, texture + meal.mottle(len(texture), 4, 4), "broccoli", 0.02)


def _slices(meal: Meal, at: Point, reach: float, *, name: str) -> None:
    """Lays round slices: a skin, the flesh in it, and round the middle the seeds, chambers or rays of a core."""
    skin, flesh, core, spokes, oval, peel, sizes, counts = _CUTS[name]
    size = reach * meal.rng.uniform(*sizes)
    for position in meal.heap(at, max(0.0, reach - size), int(meal.rng.integers(*counts))):
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
        meal.lay(position, silhouette, texture + meal.mottle(len(texture), 5, 3), name, 0.011)


def _salmon(meal: Meal, at: Point, reach: float) -> None:
    turn, half = meal.rng.uniform(0, np.pi), (reach * 1.1, reach * meal.rng.uniform(0.46, 0.64))
    silhouette, texture, c = meal.window(half[0] * 1.25, meal.colour(236, 128, 88))
    cv2.fillPoly(silhouette, [meal.outline(c, half, turn, 0.02, 3.5)], 255)
    across, fat = np.linspace(-1.1, 1.1, 13), meal.colour(250, 196, 168)
    for start in np.arange(-1.2, 1.3, meal.rng.uniform(0.15, 0.24)):
        line = np.stack(((start + 0.22 * np.abs(across)) * half[0], across * half[1]), 1) @ _spin(turn)
        cv2.polylines(texture, [_pixels(line + c)], False, fat, max(1, round(meal.unit * 0.007)))
    texture = soften(texture, meal.unit * 0.003) + meal.mottle(len(texture), 4, 8)
    meal.lay(at, silhouette, texture, "salmon", 0.024)


def _chicken(meal: Meal, at: Point, reach: float) -> None:
    turn, count = meal.rng.uniform(0, np.pi), int(meal.rng.integers(3, 6))
    for offset in (np.arange(count) - (count - 1) / 2) * 1.5 * reach / count:
        silhouette, texture, c = meal.window(reach * 1.1, meal.colour(164, 100, 48))
        strip = meal.outline(c, (reach * meal.rng.uniform(0.74, 0.88), reach * 0.28), turn, 0.06, 2.6)
        cv2.fillPoly(silhouette, [strip], 255)
        # Cut across, the meat is pale; only the side away from the next strip was seared.
        meat = (strip - c) * 0.94 + c + np.array((0, -0.09 * reach)) @ _spin(turn)
        cv2.fillPoly(texture, [_pixels(meat)], meal.colour(228, 204, 172))
        for along in meal.rng.uniform(-0.7, 0.7, 9) * reach:
            fibre = c + np.array(((along, -0.2 * reach), (along + 0.1 * reach, 0.12 * reach))) @ _spin(turn)
            cv2.polylines(texture, [_pixels(fibre)], False, meal.colour(206, 176, 140), 1)
        texture = soften(texture, meal.unit * 0.006) + meal.mottle(len(texture), 8, 7)
        meal.lay((at[0] - np.sin(turn) * offset, at[1] + np.cos(turn) * offset), silhouette, texture, "chicken", 0.018)


def _tofu(meal: Meal, at: Point, reach: float) -> None:
    cream = (214, 172, 108) if meal.rng.random() < 0.4 else (240, 230, 204)
    for position in meal.heap(at, reach * 0.7, int(meal.rng.integers(4, 9))):
        size = reach * meal.rng.uniform(0.24, 0.34)
        base = np.asarray(meal.colour(*cream))
        silhouette, texture, c = meal.window(size * 2.2, tuple(base * 0.74))
        top = meal.outline(c, (size, size), meal.rng.normal(0, 0.4), 0.01, 7)
        side = top + _pixels(np.array((size * 0.35, size * 0.6)))
        cv2.fillConvexPoly(silhouette, cv2.convexHull(np.concatenate((top, side))), 255)
        cv2.fillPoly(texture, [top], base.tolist())
        meal.lay(position, silhouette, texture + meal.mottle(len(texture), 4, 5), "tofu", 0.014)


# skin, flesh and core (RGB), spokes, half axes of a spoke, radius without peel, then ranges: size, how many slices
_CUTS: dict[str, tuple[Colour, Colour, Colour, int, Point, float, Point, tuple[int, int]]] = {
    "carrot": ((214, 96, 22), (238, 130, 42), (248, 164, 72), 9, (0.3, 0.04), 0.93, (0.26, 0.36), (7, 13)),
    "tomato": ((176, 26, 22), (216, 66, 48), (190, 44, 26), 5, (0.24, 0.23), 0.87, (0.42, 0.6), (3, 6)),
    "cucumber": ((42, 84, 38), (200, 220, 158), (234, 238, 200), 8, (0.13, 0.05), 0.87, (0.38, 0.52), (4, 9)),
    "lemon": ((232, 196, 30), (248, 242, 208), (240, 212, 74), 8, (0.26, 0.14), 0.87, (0.6, 0.8), (1, 4)),
}
_TABLES = ((172, 128, 86), (96, 66, 46), (205, 200, 192), (74, 78, 84), (150, 160, 158), (196, 176, 150), (120, 52, 48))

# in the order of laying, with the reach of a helping as a share of the area for food in the dish
HELPINGS: tuple[tuple[Callable[[Meal, Point, float], None], float], ...] = (
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
