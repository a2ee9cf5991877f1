"""A model of Task 1: an nnU-Net model folder, loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from lesionclick.network.acceleration import Arithmetic
from lesionclick.network.device import default_device
from lesionclick.network.model_folder import ModelFolder, find_model_folder, read_model_folder
from lesionclick.prompts.encodings import PointEncoding


class PetCtModel:
    """Networks, one per fold, and how a PET/CT and its prompts become their input.

    Attributes
    ----------
    content
        What its folder holds.
    encoding
        How prompts become channels.
    device
        Where it predicts; its networks are moved there when it does.
    arithmetic
        How its networks compute.
    """

    n_images = 2

    def __init__(self, content: ModelFolder, device: torch.device, *, exact: bool = False) -> None:
        assert isinstance(content.prompt.encoding, PointEncoding)
        self.content = content
        self.encoding: PointEncoding = content.prompt.encoding
        self.device = device
        self.arithmetic = Arithmetic.choose(device, exact=exact)
        self.networks = tuple(self.arithmetic.prepare(network.eval()) for network in content.networks)

    def images_dtype(self, device: torch.device) -> torch.dtype:
        """Return the precision in which images are kept for a device.

        nnU-Net's networks begin with a convolution, which rounds what it gets to its own precision: images that were
        rounded before give the same result from half of the memory. Other networks get them as they are.
        """
        plain = all(type(network).__module__.startswith("dynamic_network_architectures") for network in self.networks)
        return self.arithmetic.dtype_on(device) if plain and not self.arithmetic.exact else torch.float32

    @classmethod
    def load(
        cls,
        folder: Path | str | None = None,
        *,
        device: torch.device | None = None,
        trust_checkpoint: bool = False,
        exact: bool = False,
    ) -> PetCtModel:
        """Load a model folder; see `lesionclick.network.model_folder.read_model_folder`.

        Parameters
        ----------
        folder
            The model folder; by default the platform's where it holds one, else the embedded one.
        device
            Where to predict; by default CUDA where there is one, else the CPU with a warning.
        trust_checkpoint
            Let checkpoints run any code that they hold.
        exact
            Compute as nnU-Net does, at its speed, so that its voxels are matched.

        Raises
        ------
        ModelError
            If something is missing, broken, of an unknown kind, or refused.
        """
        device = device or default_device()
        found = find_model_folder(None if folder is None else Path(folder), "task1")
        content = read_model_folder(found, task="task1", n_images=cls.n_images, trust_checkpoint=trust_checkpoint)
        return cls(content, device, exact=exact)
