"""The second-placed team's folder gives the voxels of its description, worked out here step by step.

`test_nnunet_equality.py` does the same for the organisers' baseline.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.foreign_models import STEM_CLASS, network_of, write_second_place
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import ball
from test_nnunet_equality import CLICKS, CPU, smooth_images

from lesionclick.images import Volume
from lesionclick.network.model_folder import read_prompt_spec
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession


def paint(kind: str, shape: tuple[int, ...], properties: dict[str, Any]) -> NDArray[np.float32]:
    """A click channel on the network's grid, point by point and voxel by voxel, as the description says."""
    stamp = ndimage.distance_transform_edt(ball(2))
    stamp /= stamp.max()
    channel = np.zeros(shape, dtype=np.float32)
    cropped = properties["shape_after_cropping_and_before_resampling"]
    for click in (click for click in CLICKS if click.kind == kind):
        centre = []
        for axis, coordinate in enumerate(click.point_xyz[::-1]):
            shifted = coordinate - properties["bbox_used_for_cropping"][axis][0]
            clamped = min(max(0.0, shifted), cropped[axis])
            centre.append(int(np.round(clamped * (shape[axis] / cropped[axis])).astype(np.int16)))
        for offset in np.ndindex(*stamp.shape):
            voxel = tuple(c + o - 2 for c, o in zip(centre, offset, strict=True))
            if all(0 <= v < n for v, n in zip(voxel, shape, strict=True)):
                channel[voxel] = max(channel[voxel], stamp[offset])
    return channel


def described_mask(folder: Path, images: list[Volume]) -> NDArray[np.uint8]:
    """The mask by nnU-Net's preprocessor and predictor, with the network of the fork and the channels of `paint`."""
    written = json.loads((folder / "plans.json").read_text())
    written["configurations"]["3d_fullres"]["preprocessor_name"] = "DefaultPreprocessor"
    dataset = json.loads((folder / "dataset.json").read_text())
    plans = PlansManager(written)
    configuration = plans.get_configuration("3d_fullres")
    stacked = np.stack([volume.array for volume in images]).astype(np.half)
    properties: dict[str, Any] = {"spacing": list(images[0].grid.spacing_zyx)}
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        stacked, None, properties, plans, configuration, dataset
    )
    clicks = np.stack([paint(kind, data.shape[1:], properties) for kind in ("tumor", "background")])
    checkpoints = [torch.load(path, weights_only=False) for path in sorted(folder.glob("fold_*/checkpoint_final.pth"))]
    mirror_axes = checkpoints[0]["inference_allowed_mirroring_axes"]
    predictor = nnUNetPredictor(use_mirroring=bool(mirror_axes), device=CPU, allow_tqdm=False)
    predictor.manual_initialization(
        network_of(written),
        plans,
        configuration,
        [checkpoint["network_weights"] for checkpoint in checkpoints],
        dataset,
        checkpoints[0]["trainer_name"],
        mirror_axes,
    )
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.concatenate([data, clicks])))
    mask: NDArray[np.uint8] = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, plans.get_label_manager(dataset), properties
    )
    return mask


CASES: dict[str, dict[str, Any]] = {
    "ten folds": {"size_xyz": (64, 64, 32), "spacing_xyz": (2.0, 2.0, 3.0), "folds": range(10), "mirror_axes": ()},
    "mirrored, cropped, resampled": {
        "size_xyz": (40, 44, 24),
        "spacing_xyz": (3.25, 2.75, 3.5),
        "rim": 5,
        "folds": (0, 1),
        "mirror_axes": (2,),
    },
    "nnU-Net's own class in the plans": {
        "size_xyz": (84, 40, 44),
        "spacing_xyz": (1.0, 1.5, 1.25),
        "folds": (0,),
        "mirror_axes": (),
        "network_class": STEM_CLASS,
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_folder_gives_the_described_voxels(
    case: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = dict(case)
    images = smooth_images(options.pop("size_xyz"), options.pop("spacing_xyz"), options.pop("rim", 0))
    folder = write_second_place(tmp_path / "model", **options)
    caplog.set_level(logging.INFO, "lesionclick.network.model_folder")
    model = PetCtModel.load(folder, device=CPU, exact=True)
    assert [(r.levelname, r.getMessage().split(",")[0]) for r in caplog.records] == [
        ("INFO", "recipe: the second-placed team's (LesionLocator)")
    ]
    session = PetCtSession(model, PetCtCase(*images, CLICKS))
    expected = described_mask(folder, images)
    assert 0.05 < expected.mean() < 0.95
    assert np.count_nonzero((session.segment().lesion_logit.array > 0) != expected) == 0


def test_a_prompt_json_says_the_same_with_the_rules_off(tmp_path: Path) -> None:
    images = smooth_images((36, 40, 30), (2.0, 2.0, 3.0), 0)
    folder = write_second_place(tmp_path / "model", folds=(0,), mirror_axes=(), deep=False, patch_size=(32, 32, 32))
    spec = json.loads(read_prompt_spec(folder).to_json()) | {"rules": "none"}
    expected = described_mask(folder, images)
    (folder / "prompt.json").write_text(json.dumps(spec))
    segmentation = PetCtSession(PetCtModel.load(folder, device=CPU, exact=True), PetCtCase(*images, CLICKS)).segment()
    assert 0.05 < expected.mean() < 0.95
    assert np.array_equal(segmentation.mask.array, expected)
