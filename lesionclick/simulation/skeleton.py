"""What the atlas lacks, drawn by formula: outline, bones of chest, head and limbs, mediastinum, glands, and table."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lesionclick.simulation.anatomy import Shape
from lesionclick.simulation.atlas import Person, load_organ
from lesionclick.simulation.canvas import ORGANS, Build, Canvas

Floats = NDArray[np.floating]

# half width, front and back of the trunk's muscles by height, in mm
_TRUNK = np.array(
    [
        (150, 150, -72, 88),
        (200, 168, -92, 114),
        (260, 174, -108, 126),
        (330, 165, -116, 126),
        (420, 150, -122, 116),
        (500, 146, -122, 116),
        (600, 152, -116, 124),
        (700, 158, -108, 128),
        (780, 166, -96, 122),
        (840, 172, -72, 104),
        (875, 160, -50, 84),
        (895, 110, -46, 70),
        (915, 66, -50, 62),
        (960, 58, -50, 64),
        (1000, 56, -50, 66),
    ],
    dtype=float,
)
_CAGE = np.array(
    [
        (540, 126, -102, 106),
        (600, 131, -98, 110),
        (700, 130, -88, 112),
        (780, 116, -70, 104),
        (840, 86, -42, 82),
        (885, 48, -12, 56),
        (905, 20, 8, 40),
    ],
    dtype=float,
)
# middle of the vertebral bodies (z, y) in mm
_SPINE = np.array([(560, 30), (620, 48), (700, 56), (800, 44), (875, 20), (920, 6), (985, 6)], dtype=float)
VERTEBRA_MM = 26.0


def _level(table: NDArray[np.float64], z: Floats, y: Floats, x: Floats, *, power: float) -> Floats:
    """Return 0 in the middle and 1 on the outline of a table."""
    heights, width, front, back = table.T
    middle = np.interp(z, heights, (front + back) / 2).astype(np.float32)
    depth = np.interp(z, heights, (back - front) / 2).astype(np.float32)
    across = np.interp(z, heights, width).astype(np.float32)
    level: Floats = ((np.abs(x) / across) ** power + (np.abs(y - middle) / depth) ** power) ** (1 / power)
    return level


def cage_level(z: Floats, y: Floats, x: Floats) -> Floats:
    """Return 0 in the middle and 1 on the rib cage."""
    level = _level(_CAGE, z, y, x, power=2.2)
    level[z > _CAGE[-1, 0]] = np.inf
    return level


def spine_y(z: float) -> float:
    """Return the middle of the vertebral bodies at a height, in mm."""
    return float(np.interp(z, *_SPINE.T))


def _capsule(start: ArrayLike, end: ArrayLike, radius: float) -> Shape:
    return Shape(np.asarray(start, dtype=float), np.full(3, float(radius)), np.asarray(end, dtype=float))


def _ellipsoid(centre: ArrayLike, radii: ArrayLike) -> Shape:
    return Shape(np.asarray(centre, dtype=float), np.asarray(radii, dtype=float))


def draw_outline(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Draw skin, fat and muscle of trunk, limbs, neck and head; what is inside the trunk's wall is fat at first."""
    fat = build.fat_mm
    for side in (-1, 1):
        limbs = [((-80, 10, 92 * side), (190, 8, 88 * side), 74.0)]
        if build.arms == "down":
            limbs += [
                ((860, 40, 190 * side), (600, 40, 218 * side), 40.0),
                ((600, 40, 218 * side), (370, 20, 226 * side), 32.0),
                ((370, 20, 226 * side), (250, 5, 222 * side), 24.0),
            ]
        elif build.arms == "up":
            limbs += [
                ((860, 40, 165 * side), (1140, 10, 150 * side), 40.0),
                ((1140, 10, 150 * side), (1300, -20, 60 * side), 32.0),
            ]
        for start, end, radius in limbs:
            canvas.shape("fat", _capsule(start, end, radius + 0.8 * fat), ("air",))
        for start, end, radius in limbs:
            canvas.shape("muscle", _capsule(start, end, radius), ("air", "fat"))
    window = canvas.window((150, -260, -300), (1000, 260, 300))
    z, y, x = canvas.places(window)
    level = _level(_TRUNK, z, y, x, power=2.6)
    level[z < _TRUNK[0, 0]] = np.inf
    level[z > _TRUNK[-1, 0]] = np.inf
    belly = fat * np.interp(z, (160, 330, 520, 700, 860, 910), (0.9, 1.3, 1.3, 0.8, 0.5, 0.15)).astype(np.float32)
    canvas.paint("fat", window, (level - 1) * 110 <= belly, ("air", "muscle"))
    canvas.paint("muscle", window, level <= 1, ("air", "fat"))
    chest = cage_level(z, y, x) < 0.94
    hollow = (level < 0.9) & (z > 400) & (z < 885) & ((z < 560) | chest)
    wide = np.interp(z, (225, 300, 400), (40, 100, 130)).astype(np.float32)
    hollow |= (
        (z > 215) & (z <= 400) & (np.abs(x / wide) ** 2.5 + np.abs((y + 12) / np.minimum(wide + 8, 92)) ** 2.5 < 1)
    )
    canvas.paint("fat", window, hollow, ("muscle",))
    if build.sex == "female":
        size = rng.uniform(0.7, 1.3)
        for side in (-1, 1):
            canvas.shape("fat", _ellipsoid((745, -100 - 0.5 * fat, 78 * side), np.array((62, 38, 60)) * size), ("air",))
            gland = _ellipsoid((740, -102 - 0.6 * fat, 80 * side), np.array((32, 18, 32)) * size)
            canvas.shape("breast", gland, ("fat",), rng.uniform(0.5, 1.1))
    else:
        for side in (-1, 1):
            canvas.shape("fat", _ellipsoid((165, -72, 15 * side), (32, 26, 24)), ("air",))
            canvas.shape("testes", _ellipsoid((158, -76, 15 * side), (20, 13, 12)))
    head = _ellipsoid((1052, -12, 0), (90, 96, 78))
    canvas.shape("fat", head, ("air",))
    canvas.shape("muscle", _ellipsoid((985, -42, 0), (62, 62, 62)), ("air", "fat"))


def draw_bones(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Draw the skeleton below the head, marrow inside."""
    window, full = canvas.in_place(load_organ("torso", "muscles"))
    canvas.paint("muscle", window, full >= 0.5, ("fat",))
    people: tuple[Person, ...] = ("female", "male", "torso")
    person = people[int(rng.integers(3))]
    for owner, name in ((person, "hips"), (person, "sacrum"), ("torso", "lumbar_spine"), ("torso", "femurs")):
        window, full = canvas.in_place(load_organ(owner, name))
        canvas.paint("bone", window, full >= 0.5, ("fat", "muscle", "bone", "marrow"))
        canvas.paint("marrow", window, full >= 0.8, ("bone",))
    for z in np.arange(_SPINE[0, 0] - 6, _SPINE[-1, 0], VERTEBRA_MM * 0.92):
        radius = np.interp(z, (560, 870, 980), (20, 15, 11))
        start, end = np.array((z, spine_y(z), 0.0)), np.array((z + VERTEBRA_MM, spine_y(z + VERTEBRA_MM), 0.0))
        canvas.shape("disc", _capsule(start, end, radius), ("fat", "muscle", "disc"))
        middle = (start + end) / 2
        canvas.shape("bone", _ellipsoid(middle, (0.46 * VERTEBRA_MM, radius, radius * 1.15)), ("fat", "muscle", "disc"))
        canvas.shape("marrow", _ellipsoid(middle, (0.40 * VERTEBRA_MM, radius * 0.86, radius)), ("bone",))
        process = _capsule(middle + np.array((0, radius + 14, 0)), middle + np.array((-18, radius + 32, 0)), 4.5)
        canvas.shape("bone", process, ("fat", "muscle"))
        for side in (-1, 1):
            canvas.shape(
                "bone",
                _capsule(middle + np.array((0, radius, 9 * side)), middle + np.array((0, radius + 12, 17 * side)), 5),
                ("fat", "muscle"),
            )
    cord = _capsule((520, 56, 0), (620, 78, 0), 5.5)
    canvas.shape("spinal_cord", cord, ("fat", "muscle", "bone", "marrow"))
    for low, high in ((620, 700), (700, 800), (800, 875), (875, 985)):
        canvas.shape(
            "spinal_cord",
            _capsule((low, spine_y(low) + 25, 0), (high, spine_y(high) + 23, 0), 5.5),
            ("fat", "muscle", "bone", "marrow"),
        )
    _draw_ribs(canvas)
    up = build.arms == "up"
    for side in (-1, 1):
        thigh = (-80, 0, 78 * side), (245, 18, 118 * side)
        canvas.shape("bone", _capsule(*thigh, 14), ("muscle", "fat"))
        canvas.shape("marrow", _capsule(*thigh, 7), ("bone",))
        canvas.shape("bone", _capsule((250, 18, 122 * side), (276, 22, 92 * side), 15), ("muscle", "fat"))
        canvas.shape("marrow", _capsule((240, 18, 118 * side), (276, 22, 92 * side), 11), ("bone",))
        canvas.shape("bone", _capsule((868, -25, 20 * side), (872, 15, 140 * side), 6), ("muscle", "fat"))
        blade = Shape(np.array((800.0, 105, 105 * side)), np.array((60.0, 5, 36)))
        canvas.shape("bone", blade, ("muscle", "fat"))
        canvas.shape("bone", _capsule((850, 60, 145 * side), (835, 95, 120 * side), 8), ("muscle", "fat"))
        if build.arms != "out":
            elbow = (1120, 10, 150 * side) if up else (600, 40, 218 * side)
            joint = (862, 40, 158 * side) if up else (862, 40, 172 * side)
            canvas.shape("bone", _ellipsoid(joint, (22, 22, 22)), ("muscle", "fat"))
            canvas.shape("marrow", _ellipsoid(joint, (17, 17, 17)), ("bone",))
            canvas.shape("bone", _capsule(joint, elbow, 11), ("muscle", "fat"))
            if not up:
                for shift in (-10, 10):
                    canvas.shape(
                        "bone", _capsule((600, 40 + shift, 218 * side), (370, 20 + shift, 226 * side), 6.5), ("muscle",)
                    )


def _draw_ribs(canvas: Canvas) -> None:
    """Draw rings around the rib cage that slope down to the front, and the breastbone."""
    window = canvas.window((540, -130, -150), (905, 140, 150))
    z, y, x = canvas.places(window)
    level = cage_level(z, y, x)
    height = z - 0.42 * (y - 60)
    bony = (np.mod(height, 27.0) < 11.0) & (level > 0.95) & (level < 1.04) & (height > 535) & (y > -78)
    bony &= (np.abs(x) > 22) | (y > 60)
    canvas.paint("bone", window, bony, ("fat", "muscle"))
    front = np.interp(z, _CAGE[:, 0], _CAGE[:, 2]) - 2
    sternum = (np.abs(x) < np.where(z > 820, 25, 17)) & (np.abs(y - front) < 8) & (z > 680) & (z < 862)
    canvas.paint("bone", window, sternum, ("fat", "muscle", "disc"))
    inner = (np.abs(x) < np.where(z > 820, 20, 13)) & (np.abs(y - front) < 5.5) & (z > 684) & (z < 858)
    canvas.paint("marrow", window, inner, ("bone",))


def draw_mediastinum(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw the great vessels, airways and gullet."""
    soft = ("fat", "muscle", "lung")
    wide = rng.uniform(0.9, 1.2)
    aorta = [
        (560, 15, 12),
        (640, 26, 16),
        (740, 24, 20),
        (800, 20, 20),
        (822, 0, 12),
        (815, -25, -6),
        (770, -32, -12),
        (730, -20, 0),
    ]
    for start, end in itertools.pairwise(aorta):
        canvas.shape("blood", _capsule(start, end, 12 * wide), soft)
    veins = [
        ((700, -8, -34), (840, -14, -32), 10),
        ((840, -14, -32), (872, -8, -45), 8),
        ((840, -18, -28), (850, -18, 40), 7),
    ]
    veins += [((755, -16, 8), (770, 0, 32), 11), ((765, -8, 0), (765, 2, -42), 10)]
    for start, end, radius in veins:
        canvas.shape("blood", _capsule(start, end, radius * wide), soft)
    for side in (-1, 1):
        hilum = np.array((755.0, 6, 34 * side))
        for _ in range(9):
            tip = hilum + np.array((rng.uniform(-95, 80), rng.uniform(-55, 60), side * rng.uniform(18, 60)))
            canvas.shape("blood", _capsule(hilum, tip, rng.uniform(2.5, 5)), soft)
        canvas.shape("blood", _capsule((850, -10, 22 * side), (985, -2, 32 * side), 4.5), soft)
        canvas.shape("blood", _capsule((862, -8, 34 * side), (985, 0, 38 * side), 5.5), soft)
        canvas.shape("blood", _capsule((862, -8, 40 * side), (855, 10, 130 * side), 5), soft)
        canvas.shape("blood", _capsule((-80, -25, 62 * side), (250, -52, 68 * side), 6), soft)
    canvas.shape("oesophagus", _capsule((690, 0, 12), (890, 0, 5), 6.5), (*soft, "blood"))
    canvas.shape("airway", _capsule((790, -6, 0), (925, -16, 0), 8), (*soft, "blood", "bone"))
    for side, down in ((-1, 755), (1, 750)):
        canvas.shape("airway", _capsule((790, -6, 0), (down, 4, 42 * side), 6), (*soft, "blood"))


def draw_head_and_neck(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Draw skull, brain, airways of the head, and the glands; a brain's size follows little of the body's."""
    size = rng.uniform(0.95, 1.04) * np.prod(build.scale_zyx) ** (-1 / 3)
    skull = _ellipsoid((1057, -8, 0), np.array((76, 86, 69)) * size)
    canvas.shape("bone", skull, ("fat", "muscle"))
    canvas.shape("brain", skull, ("bone",), 0.9)
    canvas.shape("spinal_cord", _capsule((960, 28, 0), (1005, 12, 0), 9), ("brain", "bone", "muscle", "marrow"))
    canvas.shape("bone", _ellipsoid((1000, -68, 0), (26, 26, 34)), ("muscle", "fat", "brain"))
    for side in (-1, 1):
        canvas.shape("bone", _capsule((960, -88, 4 * side), (968, -38, 46 * side), 7), ("muscle", "fat"))
        canvas.shape("bone", _capsule((968, -38, 46 * side), (1005, -22, 52 * side), 6), ("muscle", "fat"))
        canvas.shape("fat", _ellipsoid((1036, -76, 32 * side), (18, 20, 18)))
        canvas.shape("muscle", _ellipsoid((1036, -82, 32 * side), (12, 12, 12)))
        canvas.shape("airway", _ellipsoid((1010, -68, 24 * side), (12, 12, 10)), ("bone", "muscle"))
        stretch = rng.uniform(0.85, 1.2)
        canvas.shape(
            "salivary_glands",
            _ellipsoid((985, -12, 56 * side), np.array((26, 15, 11)) * stretch),
            ("fat", "muscle", "air"),
        )
        canvas.shape(
            "salivary_glands", _ellipsoid((945, -42, 30 * side), np.array((13, 14, 10)) * stretch), ("fat", "muscle")
        )
        canvas.shape(
            "salivary_glands", _ellipsoid((952, -72, 12 * side), np.array((6, 13, 6)) * size), ("fat", "muscle")
        )
        canvas.shape("lacrimal_glands", _ellipsoid((1048, -78, 46 * side), np.array((6, 7, 6)) * size))
        canvas.shape("tonsils", _ellipsoid((970, -28, 16 * side), np.array((11, 8, 6)) * size), ("muscle", "fat"))
        canvas.shape(
            "thyroid", _ellipsoid((895, -20, 17 * side), np.array((22, 9, 9)) * size), ("muscle", "fat", "blood")
        )
        canvas.shape("larynx", _ellipsoid((925, -26, 5 * side), (5, 10, 4)), ("muscle", "fat", "airway"))
    canvas.shape("tonsils", _ellipsoid((1000, -10, 0), (6, 7, 13)), ("muscle", "fat"))
    canvas.shape("airway", _capsule((930, -18, 0), (1000, -24, 0), 6), ("muscle", "fat"))
    canvas.shape("airway", _capsule((1000, -24, 0), (1012, -80, 0), 7), ("muscle", "fat", "bone"))


def draw_table(canvas: Canvas, build: Build) -> None:
    """Draw a table top that the patient lies on, in air only, straight whatever the patient's shape."""
    y, x = canvas.axes[1], canvas.axes[2]
    surface = 132 + build.fat_mm * 0.9 / build.wide + 0.0006 * -(x**2)
    shell = (y[:, None] > surface) & (y[:, None] < surface + 7) & (np.abs(x) < 205)
    canvas.organs[np.broadcast_to(shell, canvas.organs.shape) & (canvas.organs == ORGANS["air"])] = ORGANS["table"]


def draw_ganglia(canvas: Canvas) -> None:
    """Draw the coeliac, stellate and sacral ganglia of both sides."""
    for side in (-1, 1):
        for place, radii in (
            ((548, -2, 16 * side), (9, 4, 3)),
            ((888, 14, 24 * side), (8, 4, 4)),
            ((350, 48, 26 * side), (7, 3, 3)),
        ):
            canvas.shape("ganglia", _ellipsoid(place, radii), ("fat", "muscle", "blood"))
