"""A model of Task 2, which sees one lesion at a time: a patch of its follow-up and of its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from numpy.typing import NDArray

from lesionclick.budget import Plan
from lesionclick.errors import ModelError
from lesionclick.network import tiles
from lesionclick.network.acceleration import Arithmetic
from lesionclick.network.device import default_device
from lesionclick.network.ensemble import Placement, in_memory
from lesionclick.network.model_folder import ModelFolder, find_model_folder, read_model_folder
from lesionclick.prompts.encodings import LesionPair


class LongitudinalModel:
    """Networks, one per fold, and how a lesion becomes their input.

    Attributes
    ----------
    content
        What its folder holds.
    encoding
        How a lesion's baseline and its points become channels.
    device
        Where it predicts; its networks are moved there when it does.
    arithmetic
        How its networks compute.
    patch_size
        Voxels of a patch along z, y, x.
    spacing_zyx
        Voxel size of a patch in mm.
    """

    n_images = 1

    def __init__(self, content: ModelFolder, device: torch.device, *, exact: bool = False) -> None:
        assert isinstance(content.prompt.encoding, LesionPair)
        for name, expected, found in (
            ("normalization_schemes", ["CTNormalization"], content.configuration.normalization_schemes),
            ("transpose_forward", [0, 1, 2], list(content.plans.transpose_forward)),
        ):
            if found != expected:
                raise ModelError(
                    f"{content.path}: expected {name} {expected} in plans.json of a model of task2, found {found}"
                )
        self.content = content
        self.encoding: LesionPair = content.prompt.encoding
        self.device = device
        self.arithmetic = Arithmetic.choose(device, exact=exact)
        self.networks = tuple(self.arithmetic.prepare(network.eval()) for network in content.networks)
        self.patch_size = tuple(int(n) for n in content.configuration.patch_size)
        self.spacing_zyx = tuple(float(mm) for mm in content.configuration.spacing)
        properties = content.plans.foreground_intensity_properties_per_channel["0"]
        self._normalization = CTNormalization(use_mask_for_norm=False, intensityproperties=properties)

    @classmethod
    def load(
        cls,
        folder: Path | str | None = None,
        *,
        device: torch.device | None = None,
        trust_checkpoint: bool = False,
        exact: bool = False,
    ) -> LongitudinalModel:
        """Load a model folder; parameters and errors are those of `lesionclick.petct.model.PetCtModel.load`."""
        device = device or default_device()
        found = find_model_folder(None if folder is None else Path(folder), "task2")
        content = read_model_folder(found, task="task2", n_images=cls.n_images, trust_checkpoint=trust_checkpoint)
        return cls(content, device, exact=exact)

    def normalise(self, ct: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a CT patch in HU, shape (z, y, x), as the network wants it, by the plans' scheme."""
        normalised: NDArray[np.float32] = self._normalization.run(ct.copy())
        return normalised

    @property
    def at_once(self) -> int:
        """How many lesions are predicted together."""
        return self.arithmetic.tiles_at_once(self.device, self.patch_size)

    @property
    def first_plan(self) -> Plan:
        """What a lesion is found with: the first fold, not mirrored; where exact, all that there is."""
        return self.close_plan(sized=True) if self.arithmetic.exact else Plan(1)

    def close_plan(self, *, sized: bool) -> Plan:
        """Return what the look that counts is taken with: all folds, mirrored where the lesion's size was known.

        A lesion that a baseline shows is drawn better that way, and one that it does not know is drawn worse
        (docs/ablation.md).
        """
        return Plan(len(self.networks), self.content.prompt.prediction.mirror_axes if sized else ())

    def predict_lesion_logits(self, patches: Sequence[NDArray[np.float32]], plan: Plan) -> list[NDArray[np.float32]]:
        """Return by how much the lesion's logit exceeds the background's, for one lesion or several.

        Parameters
        ----------
        patches
            For each lesion, the follow-up CT, normalised, then the channels of `LesionPair.encode`, shape (5, z, y, x).
        plan
            How many folds predict, and how they are mirrored.

        Returns
        -------
        list of NDArray
            For each, the mean over folds and mirrored versions, shape (z, y, x), float32.

        Raises
        ------
        ModelError
            If a logit is not finite.
        OutOfMemoryError
            If the memory does not suffice.
        """

        def work(place: Placement) -> list[NDArray[np.float32]]:
            step = 1 if place.one_by_one else len(patches)
            return [
                lesion_logit
                for first in range(0, len(patches), step)
                for lesion_logit in self._predict_together(patches[first : first + step], plan, place.network)
            ]

        return in_memory(work, self.networks, self.device)

    def _predict_together(
        self, patches: Sequence[NDArray[np.float32]], plan: Plan, device: torch.device
    ) -> NDArray[np.float32]:
        data = torch.from_numpy(np.stack(patches)).to(device)
        with torch.inference_mode(), self.arithmetic.autocast(device):
            folds = [
                tiles.average_flips(network, data, plan.mirror_axes).float() for network in self.networks[: plan.folds]
            ]
        mean = torch.stack(folds).mean(dim=0).cpu().numpy()
        lesion_logits: NDArray[np.float32] = mean[:, 1] - mean[:, 0]
        if not np.isfinite(lesion_logits).all():
            raise ModelError(f"{self.content.path}: expected finite logits, found NaN or infinite ones")
        return lesion_logits
