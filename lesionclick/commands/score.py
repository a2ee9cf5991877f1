"""The command `score`."""

from pathlib import Path


def score(label: Path, prediction: Path, /) -> None:
    """Print the scores of a mask as JSON: the challenge's, and distances between the surfaces.

    For example:

        lesionclick score out/labels/7.mha out/replay/7/step_10.mha

    Parameters
    ----------
    label
        True mask.
    prediction
        Mask to score, on the same grid.
    """
    import json
    import math

    import numpy as np

    from lesionclick.errors import InputError
    from lesionclick.evaluation import measures
    from lesionclick.images import Volume, require_same_grid

    true, predicted = Volume.read(label), Volume.read(prediction)
    for path, volume in ((label, true), (prediction, predicted)):
        if not np.isfinite(volume.array).all():
            raise InputError(f"{path}: expected a mask, found voxels that are NaN or infinite")
    require_same_grid(true, predicted, f"label {label}", f"prediction {prediction}")
    pair = measures.MaskPair(true.array, predicted.array, true.grid.spacing_zyx)
    scores = measures.score(measures.CHALLENGE, [pair]) | measures.score(measures.SURFACES, pair)
    print(json.dumps({key: None if math.isnan(value) else value for key, value in scores.items()}, indent=2))
