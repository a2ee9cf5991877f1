"""Write the sample cases of real patients again, from the crops that `benchmarks/crops.py` makes, and their scribbles.

python benchmarks/samples.py --sts ../shared/data/sts
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from lesionclick.evaluation.samples import write_real_sample
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.images import Volume
from lesionclick.prompts.points import BACKGROUND, STROKE_POINTS, TUMOR, Prompts, are_in_strokes
from lesionclick.simulation.strokes import corrective_stroke

PATIENTS = ("STS_002", "STS_044")
"""Two of the patients that are never trained on; the organisers' own clicks for both lie in `test/golden`."""
SCRIBBLED, SCRIBBLE_POINTS = "sts_044", 400
"""The case that has a file of scribbles, and how many points it holds."""


def draw_scribbles(truth: Volume, rng: np.random.Generator) -> Prompts:
    """Draw strokes into the errors of masks that are one to four voxels too small or too large, one in a slice.

    There are `SCRIBBLE_POINTS` points in all, those of the tumour first, and all strokes can be told from clicks.
    """
    label = truth.array > 0
    drawn: dict[str, list[np.ndarray]] = {TUMOR: [], BACKGROUND: []}
    free = np.ones(len(label), dtype=bool)
    left = SCRIBBLE_POINTS
    while left:
        change = (ndimage.binary_erosion, ndimage.binary_dilation)[rng.integers(2)]
        mask = change(label, iterations=int(rng.integers(1, 5))) & free[:, None, None]
        stroke = corrective_stroke(label & free[:, None, None], mask, rng)
        if stroke is None:
            raise ValueError(f"{left} of {SCRIBBLE_POINTS} points are left over")
        voxels = stroke.voxels_zyx[:left]
        told_from_clicks = are_in_strokes(voxels, truth.grid.spacing_zyx).all()
        if told_from_clicks and left - len(voxels) not in range(1, STROKE_POINTS):
            drawn[stroke.kind].append(voxels)
            left -= len(voxels)
            free[voxels[0, 0]] = False
    return Prompts.from_indices(
        tumor_zyx=np.concatenate(drawn[TUMOR]), background_zyx=np.concatenate(drawn[BACKGROUND])
    )


def main() -> None:
    """Write cases, labels and scribbles into the folders of `test`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sts", type=Path, default=Path("../shared/data/sts"), help="folder with the crops")
    parser.add_argument("--test", type=Path, default=Path("test"), help="folder to write into (default: test)")
    args = parser.parse_args()
    for patient in PATIENTS:
        name = patient.lower()
        write_real_sample(args.sts / patient, args.test / "input" / name, args.test / "labels" / f"{name}.mha")
        print(args.test / "input" / name)
    label = Volume.read(args.test / "labels" / f"{SCRIBBLED}.mha")
    path = args.test / "scribbles" / f"{SCRIBBLED}.json"
    path.parent.mkdir(exist_ok=True)
    write_clicks(path, draw_scribbles(label, np.random.default_rng(0)))
    print(path)


if __name__ == "__main__":
    main()
