"""The command `clicks`."""

from pathlib import Path

from cyclopts.types import PositiveInt

from lesionclick.commands.options import Seed


def clicks(
    label: Path, pet: Path, /, *, output: Path, clicks: PositiveInt = 10, seed: Seed = 42, official: bool = False
) -> None:
    r"""Simulate a reader's clicks for a true mask and its PET.

    For example:

        lesionclick clicks out/labels/7.mha out/cases/7/images/pet/*.mha \
            --output out/lesion-clicks.json

    Parameters
    ----------
    label
        True mask.
    pet
        PET on the same grid.
    output
        Click file to write.
    clicks
        Number of clicks of each kind.
    seed
        The same seed and options give the same clicks.
    official
        Place them as the organisers' script does, quirks included.
    """
    import numpy as np

    from lesionclick.errors import InputError
    from lesionclick.grand_challenge.click_files import write_clicks
    from lesionclick.grand_challenge.image_files import require_writable
    from lesionclick.images import Volume, replacing, require_same_grid
    from lesionclick.prompts.points import Prompts
    from lesionclick.simulation import readers

    mask, uptake = Volume.read(label), Volume.read(pet)
    for path, volume in ((label, mask), (pet, uptake)):
        if not np.isfinite(volume.array).all():
            raise InputError(f"{path}: expected finite voxels, found NaN or infinite ones")
    require_same_grid(mask, uptake, f"label {label}", f"PET {pet}")
    truth = mask.array > 0
    try:
        if official:
            tumor, background = readers.official(truth, uptake.array, seed=seed, n_clicks=clicks)
        else:
            tumor, background = readers.simulate(truth, uptake.array, np.random.default_rng(seed), clicks)
    except ValueError as error:
        raise InputError(f"{label}: {error}") from error
    require_writable(output.parent)
    with replacing(output) as temporary:
        write_clicks(temporary, Prompts.from_indices(tumor_zyx=tumor, background_zyx=background))
    print(output)
