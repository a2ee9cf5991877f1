"""Task 1: a PET/CT case with clicks becomes a mask of its lesions."""

import logging

import numpy as np

from lesionclick.budget import Budget
from lesionclick.images import Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import Model
from lesionclick.petct.rules import refine
from lesionclick.prompts.points import BACKGROUND, TUMOR, indices_zyx

logger = logging.getLogger(__name__)


def segment(case: PetCtCase, model: Model, budget: Budget | None = None) -> Volume:
    """Return the mask of the lesions, uint8 with 1 for lesion, on the grid of the PET."""
    grid = case.pet.grid
    margin = model.predict_margin(case.ct, case.pet, case.clicks, budget)
    tumor, background = (indices_zyx(case.clicks, name, grid.shape_zyx) for name in (TUMOR, BACKGROUND))
    refined = refine(
        margin.array, tumor, background, grid.spacing_zyx, by_procedure=model.prompt.readers == "challenge"
    )
    logger.info(
        "rules: corrected %d of %d tumour and %d of %d background clicks, removed %d unmarked components",
        refined.corrected_tumor,
        len(tumor),
        refined.corrected_background,
        len(background),
        refined.removed,
    )
    return Volume(refined.mask.astype(np.uint8), grid)
