import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.longitudinal_folder import (
    FOLLOWUP_POINTS,
    baseline_mask,
    followup_ct,
    on_grid_of,
    write_baseline,
    write_followup,
    write_longitudinal_case,
    write_points,
)

from lesionclick.errors import InputError
from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.jobs import ReplayError, find_cases, lay_out
from lesionclick.evaluation.longitudinal_replay import LongitudinalReplay, volumes_then
from lesionclick.evaluation.replay import replay_cases
from lesionclick.evaluation.steps import Options
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_lesion_points
from lesionclick.grand_challenge.image_files import write_masks
from lesionclick.grand_challenge.interfaces import PRIMARY, REGIONS, SECONDARY
from lesionclick.images import Volume
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.prompts.points import Prompts

VOXEL_ML = 3.5 * 3.5 * 4 / 1000
PLACES = {number: tuple(map(round, point)) for number, point in FOLLOWUP_POINTS.items()}


def cubes(places, shift_x: int = 0) -> np.ndarray:
    """A cube of 27 voxels on the follow-up's grid around each place (x, y, z), with the number of the lesion."""
    mask = np.zeros(followup_ct().GetSize()[::-1], dtype=np.uint8)
    for number, (x, y, z) in places.items():
        mask[z - 1 : z + 2, y - 1 : y + 2, x - 1 + shift_x : x + 2 + shift_x] = number
    return mask


def write_label(folder: Path, region: str, mask: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(on_grid_of(followup_ct(), mask), folder / f"{region}.mha", useCompression=True)


def segment(input_dir: Path, output_dir: Path) -> None:
    """A fake job: a cube around each follow-up point; without points lesion 1 alone, one voxel beside its place."""
    folder = CaseFolder.open(input_dir)
    folder.prepare_output(output_dir)
    paths = folder.mask_paths(output_dir)
    regions = {region.name: region for region in REGIONS}
    for followup in LongitudinalCase.read(folder).followups:
        places = {number: tuple(map(round, point)) for number, point in followup.points.items()}
        mask = cubes(places) if places else cubes({1: PLACES[1]}, shift_x=1)
        write_masks({paths[regions[followup.region].mask.socket]: Volume(mask, followup.ct.grid)})


def replay_case(folder: Path, run, output: Path, labels: Path | None = None) -> LongitudinalReplay:
    """Replay one case, with labels in the folder of its name in `labels`."""
    (replay,) = replay_cases([folder], run, output, Options(labels=labels))
    return replay


class Recorder:
    """A fake job that keeps the files of points that it saw."""

    def __init__(self) -> None:
        self.points: list[dict] = []
        self.folders: list[Path] = []

    def __call__(self, input_dir: Path, output_dir: Path) -> None:
        self.points.append({path.name: read_lesion_points(path) for path in input_dir.glob("*-clicks.json")})
        self.folders += [input_dir, output_dir]
        assert list(output_dir.iterdir()) == []
        segment(input_dir, output_dir)


@pytest.fixture
def case(tmp_path) -> Path:
    return write_longitudinal_case(tmp_path / "cases" / "one")


@pytest.fixture
def labels(tmp_path) -> Path:
    write_label(tmp_path / "labels" / "one", "primary", cubes(PLACES))
    return tmp_path / "labels"


def test_step_0_has_no_followup_point_and_step_1_all(tmp_path):
    case = write_longitudinal_case(tmp_path / "case", REGIONS, REGIONS)
    run = Recorder()
    replay = replay_case(case, run, tmp_path / "out")

    given = {path.name: read_lesion_points(path) for path in case.glob("*.json")}
    assert len(given) == 4
    without = {name: {} if "followup" in name else points for name, points in given.items()}
    assert run.points == [without, given]
    assert [(step.number, step.points) for step in replay.steps] == [(0, 0), (1, 4)]
    assert len(set(run.folders)) == 4
    assert not any(folder.exists() for folder in run.folders)


def test_inputs_json_holds_the_points_of_the_step(case, tmp_path):
    sockets = (*PRIMARY.baseline, *PRIMARY.followup)
    value = json.loads((case / PRIMARY.followup_clicks.relative_path).read_bytes())
    entries = [
        {
            "socket": {"slug": one.slug, "relative_path": one.relative_path},
            "value": value if one.kind == "json" else None,
        }
        for one in sockets
    ]
    (case / "inputs.json").write_text(json.dumps(entries))
    lay_out(case, tmp_path / "input", {PRIMARY.followup_clicks: Prompts()})

    changed = json.loads((tmp_path / "input" / "inputs.json").read_bytes())
    assert changed[:-1] == entries[:-1]
    assert changed[-1]["value"]["points"] == []
    assert changed[-1]["value"] == json.loads((tmp_path / "input" / PRIMARY.followup_clicks.relative_path).read_bytes())


def test_scores_of_both_steps(case, labels, tmp_path):
    first, second = replay_case(case, segment, tmp_path / "out", labels=labels).steps

    # lesion 1: 18 of 27 voxels shared; lesion 2, of 27 voxels, is missed
    assert first.scores["dsc"] == pytest.approx(2 * 18 / (54 + 27))
    assert (first.scores["fpv_ml"], first.scores["fnv_ml"]) == pytest.approx((0, 27 * VOXEL_ML))
    one, two = first.lesions["primary"]
    assert (one.dsc, two.dsc) == pytest.approx((18 / 27, 0))
    assert one.point_error_mm == pytest.approx(3.5)
    assert first.scores["lesion_dsc"] == pytest.approx(1 / 3)
    assert first.scores["detected_percent"] == 50
    assert (second.scores["dsc"], second.scores["fpv_ml"], second.scores["fnv_ml"]) == (1, 0, 0)
    assert second.scores["lesion_dsc"] == 1
    assert sorted(path.name for path in (tmp_path / "out" / "one").iterdir()) == [
        "step_00_primary.mha",
        "step_01_primary.mha",
    ]
    assert (Volume.read(second.masks[PRIMARY.mask.socket]).array == cubes(PLACES)).all()


def test_two_regions_are_scored_together_and_apart(tmp_path):
    case = write_longitudinal_case(tmp_path / "case", REGIONS, REGIONS)
    write_label(tmp_path / "labels" / "case", "primary", cubes(PLACES))
    write_label(tmp_path / "labels" / "case", "secondary", cubes({2: PLACES[2]}))
    second = replay_case(case, segment, tmp_path / "out", labels=tmp_path / "labels").steps[1]

    assert second.scores["dsc"] == pytest.approx(2 * 81 / (81 + 108))
    assert second.scores["fpv_ml"] == pytest.approx(27 * VOXEL_ML)
    # lesion 1 of the secondary region is another than that of the primary one: it vanished, and was not left empty
    gone, present = second.lesions["secondary"]
    assert (gone.number, gone.true_ml, gone.reported_empty) == (1, 0, False)
    assert present.dsc == 1
    assert second.scores["vanished_empty_percent"] == 0
    assert second.scores["lesion_dsc"] == 1


def test_two_followups_of_one_baseline_share_its_lesions(tmp_path):
    """A lesion that one follow-up shows has not vanished from the other; one that neither shows has."""
    case = write_longitudinal_case(tmp_path / "case", (PRIMARY,), REGIONS)
    mask = sitk.GetArrayFromImage(baseline_mask())
    mask[0, 0, 0] = 3
    write_baseline(case, mask=on_grid_of(baseline_mask(), mask), points={1: (5, 6, 7), 2: (14, 11, 8), 3: (0, 0, 0)})
    write_label(tmp_path / "labels" / "case", "primary", cubes({1: PLACES[1]}))
    write_label(tmp_path / "labels" / "case", "secondary", cubes({2: PLACES[2]}))
    first = replay_case(case, segment, tmp_path / "out", labels=tmp_path / "labels").steps[0]
    assert {region: [one.number for one in lesions] for region, lesions in first.lesions.items()} == {
        "primary": [1, 3],
        "secondary": [2, 3],
    }
    assert first.scores["vanished_empty_percent"] == 100


def test_the_larger_volume_of_a_lesion_in_two_baselines_counts(tmp_path):
    case = write_longitudinal_case(tmp_path / "case", REGIONS, (PRIMARY,))
    mask = sitk.GetArrayFromImage(baseline_mask())
    mask[:7] = 0  # leaves 18 of the 27 voxels of lesion 1
    write_baseline(case, SECONDARY, mask=on_grid_of(baseline_mask(), mask))
    voxel_ml = 3 * 3 * 4 / 1000
    assert volumes_then(LongitudinalCase.read(CaseFolder.open(case)), "primary") == pytest.approx(
        {1: 27 * voxel_ml, 2: 8 * voxel_ml}
    )


def test_a_missing_label_leaves_the_case_without_scores(tmp_path, caplog):
    case = write_longitudinal_case(tmp_path / "case", REGIONS, REGIONS)
    write_label(tmp_path / "labels" / "case", "primary", cubes(PLACES))
    replay = replay_case(case, segment, tmp_path / "out", labels=tmp_path / "labels")
    assert replay.labels == {}
    assert [step.scores for step in replay.steps] == [None, None]
    (warning,) = [record.message for record in caplog.records if "label" in record.message]
    assert "secondary.mha" in warning
    assert "primary.mha" not in warning


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image[:-1], r"label .*primary\.mha and primary-followup-ct"),
        (lambda image: sitk.Cast(image, sitk.sitkFloat32), r"primary\.mha: .*found float32"),
        (lambda image: sitk.Cast(image, sitk.sitkInt16) - 1, r"primary\.mha: .*found int16 from -1"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(case, labels, tmp_path, change, message):
    path = labels / "one" / "primary.mha"
    sitk.WriteImage(change(sitk.ReadImage(path)), path)
    with pytest.raises(InputError, match=message):
        replay_case(case, segment, tmp_path / "out", labels=labels)


def masks_of(output_dir: Path) -> list[Path]:
    return sorted(output_dir.rglob("*.mha"))


def swap(output_dir: Path) -> None:
    """Give each region's mask the other's folder."""
    first, second = masks_of(output_dir)
    shutil.move(first, second.parent / first.name)
    shutil.move(second, first.parent / second.name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda output: masks_of(output)[0].unlink(), "output: expected exactly"),
        (lambda output: masks_of(output)[1].unlink(), "output: expected exactly"),
        (swap, "output: expected exactly"),
        (lambda output: (output / "measures.json").touch(), "measures.json"),
        (lambda output: rewrite(masks_of(output)[1], sitk.sitkInt16), "16-bit signed"),
        (lambda output: rewrite(masks_of(output)[0], sitk.sitkFloat32), "float"),
        (lambda output: move(masks_of(output)[1]), "mask and secondary-followup-ct"),
    ],
)
def test_each_region_owes_one_mask_on_its_own_grid(tmp_path, spoil, message):
    case = write_longitudinal_case(tmp_path / "case", (PRIMARY,), REGIONS)

    def run(input_dir: Path, output_dir: Path) -> None:
        segment(input_dir, output_dir)
        spoil(output_dir)

    with pytest.raises(ReplayError, match=f"^case, step 0: .*{message}"):
        replay_case(case, run, tmp_path / "out")


def rewrite(path: Path, pixel_type: int) -> None:
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(path), pixel_type), path, useCompression=True)


def move(path: Path) -> None:
    image = sitk.ReadImage(path)
    image.SetOrigin((0, 0, 0))
    sitk.WriteImage(image, path, useCompression=True)


def test_masks_of_16_bits_are_allowed(case, tmp_path):
    def run(input_dir: Path, output_dir: Path) -> None:
        segment(input_dir, output_dir)
        rewrite(masks_of(output_dir)[0], sitk.sitkUInt16)

    assert len(replay_case(case, run, tmp_path / "out").steps) == 2


def test_grids_of_the_regions_may_differ(tmp_path):
    case = write_longitudinal_case(tmp_path / "case", REGIONS, (PRIMARY,))
    ct = followup_ct()
    ct.SetOrigin((0, 0, 0))
    write_followup(case, SECONDARY, ct=ct)
    assert set(replay_case(case, segment, tmp_path / "out").steps[0].masks) == {one.mask.socket for one in REGIONS}


def test_cases_of_both_tasks_are_replayed_by_their_kind(cases, tmp_path):
    def run(input_dir: Path, output_dir: Path) -> None:
        if (input_dir / "images" / "pet").is_dir():
            folder = output_dir / "images" / "tumor-lesion-segmentation"
            folder.mkdir(parents=True)
            (ct,) = (input_dir / "images" / "ct").iterdir()
            sitk.WriteImage(sitk.ReadImage(ct, sitk.sitkUInt8) > 0, folder / ct.name, useCompression=True)
        else:
            segment(input_dir, output_dir)

    write_longitudinal_case(cases / "later")
    write_label(cases.parent / "labels" / "later", "primary", cubes(PLACES))
    later, negative, positive = replay_cases(
        find_cases(cases), run, tmp_path / "out", Options((0, 3, 10), cases.parent / "labels")
    )
    assert [step.number for step in later.steps] == [0, 1]
    assert [[step.number for step in replay.steps] for replay in (negative, positive)] == [[0, 3, 10]] * 2
    assert later.steps[1].scores["lesion_dsc"] == 1


def test_corrective_clicks_are_for_task_1_alone(cases, tmp_path):
    write_longitudinal_case(cases / "zz")
    run = Recorder()
    with pytest.raises(InputError, match=r"zz: corrective clicks need a PET/CT case, found primary"):
        list(replay_cases(find_cases(cases), run, tmp_path / "out", Options(corrective=True)))
    assert run.folders == []


def test_a_container_engine_runs_both_steps(case, labels, tmp_path):
    """The engine is a script that answers with one mask for all, the label."""
    socket, script = PRIMARY.mask.socket.relative_path, tmp_path / "engine"
    shutil.copy(labels / "one" / "primary.mha", tmp_path / "mask.mha")
    script.write_text(f"""#!/bin/sh
[ "$1" = run ] || exit 1
for word in "$@"; do
  case "$word" in
    *:/output) out="${{word%:/output}}" ;;
    *:/input:ro) in="${{word%:/input:ro}}" ;;
  esac
done
mkdir -p "$out/{socket}"
cp {tmp_path}/mask.mha "$out/{socket}/$(basename "$in"/images/primary-followup-ct/*)"
""")
    script.chmod(0o755)
    replay = replay_case(case, Engine.find(str(script), "image"), tmp_path / "out", labels=labels)
    assert [step.scores["lesion_dsc"] for step in replay.steps] == [1, 1]


def test_a_failing_job_says_where(case, tmp_path):
    def run(input_dir: Path, output_dir: Path) -> None:
        if LongitudinalCase.read(CaseFolder.open(input_dir)).followups[0].points:
            raise KeyError("x")
        segment(input_dir, output_dir)

    with pytest.raises(ReplayError, match=r"^one, step 1: KeyError"):
        replay_case(case, run, tmp_path / "out")


def test_a_case_without_any_followup_point_has_both_steps(case, tmp_path):
    write_points(case, PRIMARY.followup_clicks, {})
    assert [step.points for step in replay_case(case, segment, tmp_path / "out").steps] == [0, 0]
