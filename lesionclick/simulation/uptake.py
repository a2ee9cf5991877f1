"""What a scan measures in each organ: Hounsfield units, and SUV of FDG and PSMA tracers.

Sources of the ranges, by letter in the table: W - Wang et al., Mol Imaging Biol 9 (2007) 83; Z - Zincirkeser et al.,
J Int Med Res 35 (2007) 529; S - Shreve et al., Radiographics 19 (1999) 61, for what is patchy or varies; D - Demirci et
al., Nucl Med Commun 37 (2016) 1169; P - Prasad et al., Mol Imaging Biol 18 (2016) 428; R - Rischpler et al., J Nucl Med
59 (2018) 1406 for ganglia. They are published means with about one and a half of their spreads to either side. Where
no source measures an organ, its range is that of the most similar one ("like"). HU follow Schneider et al., Phys Med
Biol 41 (1996) 111; with contrast agent they are those of the portal venous phase.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lesionclick.simulation.anatomy import Shape
from lesionclick.simulation.canvas import ORGANS, Canvas
from lesionclick.simulation.skeleton import spine_y

Tracer = Literal["fdg", "psma"]
Range = tuple[float, float]
Floats = NDArray[np.float32]


class Tissue(NamedTuple):
    """Ranges of HU without and with contrast agent, and of the mean SUV of either tracer; the spread inside."""

    hu: Range
    enhanced_hu: Range
    fdg: Range
    psma: Range
    texture: float = 0.08


TISSUES = {
    "air": Tissue((-1000, -1000), (-1000, -1000), (0, 0), (0, 0), 0),
    "table": Tissue((-250, -120), (-250, -120), (0, 0), (0, 0), 0),
    "fat": Tissue((-115, -90), (-115, -90), (0.2, 0.4), (0.2, 0.35), 0.15),  # W D
    "muscle": Tissue((40, 60), (50, 70), (0.5, 0.9), (0.4, 0.75), 0.15),  # W P
    "bone": Tissue((450, 800), (450, 800), (0.5, 0.9), (0.3, 0.6), 0.15),  # W P
    "marrow": Tissue((120, 240), (120, 240), (0.9, 2.0), (0.45, 1.0), 0.15),  # W Z, P
    "lung": Tissue((-860, -740), (-860, -740), (0.3, 0.65), (0.25, 0.5), 0.2),  # W D
    "airway": Tissue((-1000, -980), (-1000, -980), (0.1, 0.2), (0.1, 0.2), 0),  # only what is blurred into it
    "brain": Tissue((28, 38), (32, 42), (5.5, 13.0), (0.08, 0.2), 0.22),  # W Z, D
    "blood": Tissue((35, 50), (140, 190), (1.2, 2.1), (1.0, 1.9), 0.05),  # W, D
    "myocardium": Tissue((40, 55), (95, 130), (1.3, 3.2), (1.0, 1.9), 0.2),  # fasting; W S, D
    "liver": Tissue((45, 65), (95, 125), (1.7, 2.9), (3.0, 7.5), 0.07),  # W Z, D P
    "gallbladder": Tissue((0, 15), (0, 15), (0.8, 1.5), (1.0, 12.0), 0.05),  # like blood; P
    "spleen": Tissue((42, 58), (105, 135), (1.4, 2.4), (3.0, 10.0), 0.07),  # W Z, D P
    "pancreas": Tissue((25, 45), (75, 105), (1.2, 2.0), (1.4, 3.2), 0.1),  # W, D
    "kidney_cortex": Tissue((28, 40), (160, 210), (2.0, 3.8), (28.0, 60.0), 0.1),  # Z S, D P
    "kidney_medulla": Tissue((26, 38), (130, 180), (2.2, 5.0), (16.0, 36.0), 0.15),  # Z S, D P
    "kidney_pelvis": Tissue((0, 15), (5, 40), (4.0, 25.0), (12.0, 45.0), 0.3),  # S, D
    "ureter": Tissue((5, 25), (10, 40), (0.8, 14.0), (0.8, 25.0), 0.0),  # S, D; in spots
    "bladder": Tissue((0, 12), (0, 15), (5.0, 40.0), (5.0, 60.0), 0.1),  # Z S, D
    "stomach": Tissue((15, 40), (25, 65), (1.2, 3.2), (1.3, 3.5), 0.3),  # W Z, D
    "duodenum": Tissue((20, 40), (50, 90), (1.2, 2.6), (7.0, 17.0), 0.3),  # W, D P
    "small_bowel": Tissue((15, 40), (45, 85), (0.9, 2.2), (2.0, 6.5), 0.4),  # W S, D P
    "colon": Tissue((20, 45), (50, 90), (0.9, 3.0), (1.2, 3.5), 0.45),  # W S, D
    "colon_content": Tissue((-250, 30), (-250, 30), (0.7, 2.0), (0.7, 2.0), 0.35),  # like colon, less
    "prostate": Tissue((30, 45), (55, 85), (1.2, 2.4), (2.5, 6.0), 0.15),  # W, D P
    "uterus": Tissue((35, 50), (80, 115), (1.2, 2.8), (1.0, 2.0), 0.12),  # W S, like muscle
    "salivary_glands": Tissue((0, 50), (50, 90), (1.3, 3.2), (9.0, 21.0), 0.1),  # W Z, D P
    "lacrimal_glands": Tissue((25, 45), (50, 90), (0.8, 1.5), (4.5, 10.0), 0.05),  # like muscle, D P
    "tonsils": Tissue((35, 55), (60, 90), (2.0, 6.5), (2.0, 4.0), 0.1),  # W S, D
    "thyroid": Tissue((80, 120), (130, 180), (1.0, 2.2), (0.9, 1.8), 0.1),  # W, D
    "adrenals": Tissue((15, 35), (60, 90), (1.0, 2.4), (2.0, 4.5), 0.05),  # W, D
    "oesophagus": Tissue((30, 45), (45, 75), (1.2, 2.3), (1.2, 2.0), 0.15),  # W, D
    "spinal_cord": Tissue((30, 42), (32, 45), (1.3, 2.2), (0.5, 1.0), 0.05),  # W, like muscle
    "brown_fat": Tissue((-100, -70), (-100, -70), (3.0, 12.0), (0.3, 0.5), 0.4),  # S, like fat
    "ganglia": Tissue((20, 45), (45, 75), (0.9, 1.6), (1.8, 3.8), 0.05),  # like muscle, R
    "larynx": Tissue((40, 60), (55, 80), (1.2, 4.0), (0.8, 1.5), 0.05),  # S, like muscle
    "testes": Tissue((30, 45), (40, 60), (2.0, 4.2), (0.8, 1.6), 0.05),  # W, D
    "breast": Tissue((0, 40), (10, 55), (0.6, 1.4), (0.5, 1.0), 0.15),  # W, like muscle
    "disc": Tissue((70, 110), (75, 115), (0.6, 1.0), (0.4, 0.7), 0.05),  # like muscle
}
"""One line per organ."""

LOADED_HEART_SUV = (5.0, 15.0)
"""FDG in the heart's wall after a meal, or for no known reason; Wang et al. and Shreve et al., as above."""
SHARES = {"loaded_heart": 0.4, "exercise": 0.1, "brown_fat": 0.1, "hot_colon": 0.12}
"""Share of the patients with such an FDG scan; metformin is what makes the colon hot."""
RANDOM_SPREAD = 0.4
"""Spread of the logarithm of the factor by which each organ's mean uptake differs in a randomised patient."""
RANDOM_HU = 25.0
"""Spread of what is added to each organ's HU there."""
ALIKE = (("kidney_cortex", "kidney_medulla", "kidney_pelvis"), ("colon", "colon_content"), ("blood", "myocardium"))
"""Parts that look the same in half of the randomised patients."""


def draw_uptake(
    canvas: Canvas, tracer: Tracer, rng: np.random.Generator, *, contrast_agent: bool, randomised: bool = False
) -> tuple[Floats, Floats]:
    """Return HU and SUV of each voxel: one draw per organ from its range, and what varies inside.

    Parameters
    ----------
    canvas
        The patient's organs.
    tracer
        ``fdg`` or ``psma``.
    rng
        Draws the means, the patterns, and whether the patient had eaten, walked or felt cold.
    contrast_agent
        Take HU of the portal venous phase.
    randomised
        Let uptake and HU leave the ranges, each organ's by itself, and vary less inside organs.
    """
    hu_means, suv_means, textures = (np.zeros(len(ORGANS), dtype=np.float32) for _ in range(3))
    happens = {name: bool(rng.uniform() < share) and tracer == "fdg" for name, share in SHARES.items()}
    for name, tissue in TISSUES.items():
        number = ORGANS[name]
        hu_means[number] = rng.uniform(*(tissue.enhanced_hu if contrast_agent else tissue.hu))
        suv_means[number] = _log_uniform(rng, getattr(tissue, tracer))
        textures[number] = tissue.texture
    if happens["loaded_heart"]:
        suv_means[ORGANS["myocardium"]] = _log_uniform(rng, LOADED_HEART_SUV)
    if happens["hot_colon"]:
        suv_means[[ORGANS["colon"], ORGANS["colon_content"]]] *= rng.uniform(2, 4)
    if happens["brown_fat"]:
        _draw_brown_fat(canvas)
    if randomised:
        _randomise(hu_means, suv_means, rng)
        textures *= rng.uniform()
    organs = canvas.organs
    texture = textures[organs]
    pattern = 0.6 * canvas.noise(22.0) + 0.8 * canvas.noise(9.0)
    suv = suv_means[organs] * np.exp(texture * pattern - texture**2 / 2)
    _vary_organs(canvas, suv, rng, happens["exercise"])
    hu = hu_means[organs]
    for name, spread in (
        ("colon_content", 160.0),
        ("lung", 25.0),
        ("marrow", 40.0),
        ("bone", 60.0),
        ("fat", 6.0),
        ("small_bowel", 12.0),
    ):
        inside = organs == ORGANS[name]
        hu[inside] += spread * pattern[inside]
    if randomised:
        _fill_fat(canvas, hu, hu_means[ORGANS["muscle"]])
    return np.maximum(hu, -1000), suv


def _randomise(hu_means: Floats, suv_means: Floats, rng: np.random.Generator) -> None:
    """Change HU and SUV of organs, in place, beyond what is found in people."""
    suv_means *= rng.lognormal(0, RANDOM_SPREAD, len(ORGANS)).astype(np.float32)
    soft = (hu_means > -50) & (hu_means < 300)
    hu_means[soft] += rng.normal(0, RANDOM_HU, np.count_nonzero(soft)).astype(np.float32)
    for names in ALIKE:
        parts = [ORGANS[name] for name in names]
        if rng.uniform() < 0.5:
            like = rng.choice(parts)
            hu_means[parts], suv_means[parts] = hu_means[like], suv_means[like]


def _fill_fat(canvas: Canvas, hu: Floats, muscle_hu: float) -> None:
    """Let patches of the fat look like muscle, so that organs and lesions lie in either."""
    filled = (canvas.organs == ORGANS["fat"]) & (canvas.noise(80.0) > 0)
    hu[filled] = muscle_hu


def _log_uniform(rng: np.random.Generator, limits: Range) -> float:
    low, high = limits
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if low > 0 else 0.0


def _draw_brown_fat(canvas: Canvas) -> None:
    """Turn fat beside neck, collarbones and spine into brown fat, in patches."""
    patches = canvas.noise(18.0) > -0.3
    for side in (-1, 1):
        for start, end, radius in (((935, 30, 48), (880, 25, 62), 14.0), ((880, 25, 62), (872, 20, 115), 12.0)):
            ends = [np.array((z, y, x * side), dtype=np.float64) for z, y, x in (start, end)]
            canvas.shape("brown_fat", Shape(ends[0], np.full(3, radius), ends[1]), ("fat", "muscle"))
        for z in np.arange(700.0, 860.0, 24.0):
            place = np.array((z, spine_y(z), 26.0 * side), dtype=np.float64)
            canvas.shape("brown_fat", Shape(place, np.array((8.0, 7, 6))), ("fat", "muscle", "lung"))
    canvas.organs[(canvas.organs == ORGANS["brown_fat"]) & ~patches] = ORGANS["fat"]


def _vary_organs(canvas: Canvas, suv: Floats, rng: np.random.Generator, exercise: bool) -> None:
    """Change the SUV, in place, of organs whose uptake is not even: ureters in spots, bladder in layers, and so on."""
    organs = canvas.organs

    def change(name: str, factor: Floats) -> None:
        inside = organs == ORGANS[name]
        suv[inside] *= factor[inside]

    spots = canvas.noise(30.0)
    change("ureter", np.where(spots > 0.5, 1.0, 0.12).astype(np.float32))
    change("bladder", np.clip(1 + 0.006 * canvas.y, 0.5, 1.6))
    change("liver", np.clip(1 - 0.0008 * canvas.x, 0.8, 1.2))
    if exercise:
        change("muscle", 1 + rng.uniform(1, 4) * np.clip(canvas.noise(120.0) - 0.5, 0, 1.5))
