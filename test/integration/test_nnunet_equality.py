"""The same folder and images give the same voxels in process as through nnU-Net's own prediction from files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.model_folder import write_model_folder
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Grid, Volume
from lesionclick.network import acceleration, tiles
from lesionclick.network.preprocessing import OUTSIDE_LOGIT, preprocess
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts
from lesionclick.prompts.spec import OFFICIAL_BASELINE, Prediction

CPU = torch.device("cpu")
CLICKS = Prompts(
    (
        Point(TUMOR, (20.0, 12.0, 9.0)),
        Point(BACKGROUND, (5.0, 20.0, 14.0)),
        Point(TUMOR, (20.0, 12.0, 9.0)),
        Point(TUMOR, (30.0, 22.0, 20.0)),
    )
)


def smooth_images(size_xyz: tuple[int, int, int], spacing_xyz: tuple[float, float, float], rim: int) -> list[Volume]:
    """CT and PET without a zero but in the outer `rim` voxels along y, which nnU-Net crops away."""
    grid = Grid(size_xyz, spacing_xyz, (-50.0, 20.0, 7.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    rng = np.random.default_rng(5)
    noise = [ndimage.gaussian_filter(rng.normal(size=grid.shape_zyx), 1.5) for _ in range(2)]
    unit = [array / array.std() for array in noise]
    volumes = []
    for array in (np.rint(300 * unit[0]).astype(np.int16) * 2 + 1, np.exp(unit[1]).astype(np.float32)):
        if rim:
            array[:, :rim] = array[:, -rim:] = 0
        volumes.append(Volume(array, grid))
    return volumes


def official_heatmap(shape_zyx: tuple[int, ...], name: str) -> NDArray[np.float32]:
    """FG or BG as the organisers' script makes it."""
    heatmap = np.zeros(shape_zyx, dtype=np.float32)
    for click in CLICKS:
        if click.kind == name:
            x, y, z = (int(c) for c in click.point_xyz)
            heatmap[z, y, x] = 1
    return ndimage.gaussian_filter(heatmap, sigma=3)


def predict_from_files(
    folder: Path, channels: list[Volume], work: Path, *, folds: tuple[int, ...], mirror: bool
) -> NDArray[np.uint8]:
    work.mkdir()
    files = [str(work / f"case_{n:04}.nii.gz") for n in range(len(channels))]
    for file, channel in zip(files, channels, strict=True):
        sitk.WriteImage(channel.to_image(), file)
    predictor = nnUNetPredictor(use_mirroring=mirror, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    predictor.predict_from_files_sequential([files], [str(work / "mask")])
    mask: NDArray[np.uint8] = sitk.GetArrayFromImage(sitk.ReadImage(str(work / "mask.nii.gz")))
    return mask


ON_PLANS = {"size_xyz": (36, 38, 30), "spacing_xyz": (2.0, 2.0, 3.0)}
CASES: dict[str, dict[str, Any]] = {
    "no resampling": ON_PLANS,
    "finer and smaller than the patch": {"size_xyz": (50, 44, 25), "spacing_xyz": (1.25, 1.5, 2.5)},
    "coarser": {"size_xyz": (32, 28, 22), "spacing_xyz": (2.5, 3.0, 4.5)},
    "thick slices": {"size_xyz": (40, 36, 22), "spacing_xyz": (1.75, 1.75, 6.5)},
    "cropped": {"size_xyz": (40, 40, 24), "spacing_xyz": (1.75, 2.25, 3.5), "rim": 5},
    "transposed": {"size_xyz": (34, 38, 24), "spacing_xyz": (2.25, 2.0, 3.5), "transpose": (2, 0, 1), "rim": 4},
    "resampled by torch": {"size_xyz": (34, 30, 22), "spacing_xyz": (2.25, 2.5, 4.0), "torch_resampling": True},
    "residual encoder": {**ON_PLANS, "network": "ResidualEncoderUNet"},
    "mirrored along two axes": {**ON_PLANS, "mirror_axes": (0, 2)},
    "mirrored, two folds": {
        "size_xyz": (34, 28, 22),
        "spacing_xyz": (1.75, 2.25, 3.5),
        "mirror_axes": (0, 1, 2),
        "folds": (0, 1),
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_in_process_mask_equals_nnunets(case: dict[str, Any], tmp_path: Path) -> None:
    options = dict(case)
    images = smooth_images(options.pop("size_xyz"), options.pop("spacing_xyz"), options.pop("rim", 0))
    mirror_axes = options.get("mirror_axes", ())
    if mirror_axes:
        options["prompt"] = replace(OFFICIAL_BASELINE, prediction=Prediction(mirror_axes=mirror_axes))
    folder = write_model_folder(tmp_path / "model", **options)

    model = PetCtModel.load(folder, device=CPU, exact=True)
    lesion_logit = PetCtSession(model, PetCtCase(*images, CLICKS)).segment().lesion_logit

    heatmaps = [Volume(official_heatmap(images[0].array.shape, name), images[0].grid) for name in (TUMOR, BACKGROUND)]
    folds = options.get("folds", (0,))
    expected = predict_from_files(folder, images + heatmaps, tmp_path / "files", folds=folds, mirror=bool(mirror_axes))
    mask = lesion_logit.array > 0
    assert lesion_logit.array.dtype == np.float32
    assert lesion_logit.grid == images[1].grid
    assert 0.05 < expected.mean() < 0.95
    assert np.count_nonzero(mask != expected) == 0


def test_logits_of_all_tiles_equal_nnunets(tmp_path: Path) -> None:
    images = smooth_images((70, 50, 44), (2.0, 2.0, 3.0), rim=0)
    heatmaps = [official_heatmap(images[0].array.shape, name) for name in (TUMOR, BACKGROUND)]
    folder = write_model_folder(tmp_path / "model")
    model = PetCtModel.load(folder, device=CPU, exact=True)
    channels = [*(image.array for image in images), *heatmaps]
    data = preprocess(model.content, channels, images[0].grid.spacing_zyx, exact=True).images
    predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    expected = predictor.predict_logits_from_preprocessed_data(data)
    found = tiles.predict(model.networks[0], data, model.content.configuration.patch_size)
    torch.testing.assert_close(found, expected.half(), rtol=1e-3, atol=1e-3)  # both gather in half precision


def test_the_body_keeps_its_logits_where_tiles_of_air_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct, pet = smooth_images((100, 64, 60), (2.0, 2.0, 3.0), rim=0)
    ct.array[:, :, 30:], pet.array[:, :, 30:] = -1000, 0.01
    folder = write_model_folder(tmp_path / "model", prompt=replace(OFFICIAL_BASELINE, rules="none"))
    monkeypatch.setattr(acceleration, "multiplies_bfloat16", lambda: False)
    case = PetCtCase(ct, pet, Prompts(CLICKS.points[:3]))
    found, calls = {}, {}
    for exact in (True, False):
        model = PetCtModel.load(folder, device=CPU, exact=exact)
        seen: list[int] = []
        model.networks[0].register_forward_hook(lambda *_, seen=seen: seen.append(1))
        found[exact] = PetCtSession(model, case).segment().lesion_logit.array
        calls[exact] = len(seen)
    assert calls[False] < 0.7 * calls[True]
    np.testing.assert_allclose(
        found[False][..., :30], found[True][..., :30], atol=2**-6
    )  # two steps of half precision: the tiles at the clicks are added first
    assert (found[False][..., 64:] == OUTSIDE_LOGIT).all()  # tiles of 32 voxels over the body end there
    assert (found[True][..., 64:] != OUTSIDE_LOGIT).all()
