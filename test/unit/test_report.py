import io
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.figure import Figure

from lesionclick.clicks import BACKGROUND, TUMOR, Click
from lesionclick.evaluation.expected import read_scores
from lesionclick.evaluation.figures import CORONAL, SAGITTAL, draw_projection, projections_png
from lesionclick.evaluation.metrics import Scores
from lesionclick.evaluation.replay import Replay, Step
from lesionclick.evaluation.report import write_report
from lesionclick.images import Grid, Volume

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def make_replay(
    folder: Path, name: str, direction=IDENTITY, scores: Scores | None = None, steps=range(11), acted=None
) -> Replay:
    """10 x 20 x 40 voxels (x, y, z) of 5 x 4 x 3 mm; one hot voxel that is the label and the prediction."""
    grid = Grid((10, 20, 40), (5.0, 4.0, 3.0), (0.0, 0.0, 0.0), direction)
    pet = np.zeros(grid.shape_zyx, dtype=np.float32)
    pet[35, 4, 2] = 10
    label = Volume((pet > 5).astype(np.uint8), grid)
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(label.to_image(), folder / "mask.mha")
    clicks = [Click(TUMOR, (2.0, 4.0, 35.0)), Click(BACKGROUND, (7.0, 15.0, 5.0))]
    made = [Step(k, tuple(clicks * k), folder / "mask.mha", scores, 1.25, acted) for k in steps]
    return Replay(name, Volume(pet, grid), label if scores else None, tuple(made))


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """A folder with the report of three cases."""
    tmp_path = tmp_path_factory.mktemp("report")
    replays = [
        make_replay(tmp_path / "a", "fdg <one>", scores=Scores(0.5, 2.0, 1.0), acted=(4, 0, 3)),
        make_replay(tmp_path / "b", "negative", scores=Scores(float("nan"), 37.5, float("nan"))),
        make_replay(tmp_path / "c", "unlabelled", steps=(0, 5)),
    ]
    return write_report(tmp_path / "out", replays, run="in one process on cpu").parent


@pytest.fixture(scope="module")
def page(output) -> str:
    return (output / "report.html").read_text(encoding="utf-8")


def test_report_needs_no_other_file_and_no_network(page):
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe|object)|@import|url\(", page)
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 4 + 4 + 2  # steps 0, 1, 5, 10 of two cases, 0 and 5 of the third
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "$" not in page


def test_report_shows_every_case_with_scores_and_seconds(page):
    sections = page.split('<section class="card">')[2:]
    assert [re.search("<h2>(.*)</h2>", section)[1] for section in sections] == [
        "fdg &lt;one&gt;",
        "negative",
        "unlabelled",
    ]
    assert [section.count("<tr>") for section in sections] == [12, 12, 3]  # with the head of the table
    first, negative, unlabelled = sections
    assert "<tr><td>10</td><td>10</td><td>10</td><td>4 + 0</td><td>3</td>" in first
    assert first.count("<polyline") == 3
    assert ">0.500</div></td><td>2.00</td><td>1.00</td><td>1.2</td>" in first
    assert "<td>37.50</td><td>&ndash;</td>" in negative
    assert negative.count("not defined without lesions") == 2
    assert "<polyline" not in unlabelled


def test_summary_has_areas_of_complete_curves_alone(page):
    summary = page.split('<section class="card">')[1]
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", summary)[1:]]
    assert rows[0][5:8] == ["5.00", "20.00", "10.00"]
    assert rows[1][5:8] == ["&ndash;", "375.00", "&ndash;"]
    assert rows[2][1:8] == ["&ndash;"] * 7


def test_report_names_what_ran(page):
    for text in ("in one process on cpu", "lesionclick 0", "torch 2", "nnunetv2 2", "Python 3"):
        assert text in page


def test_scores_and_picture_lie_beside_the_report(output):
    scores = read_scores(output / "scores.json")
    assert scores["fdg <one>"]["10"] == {"dsc": 0.5, "fpv_ml": 2.0, "fnv_ml": 1.0}
    assert set(scores) == {"fdg <one>", "negative"}
    height, width, _ = matplotlib.image.imread(output / "picture.png").shape
    assert width > 2 * height


def test_projections_keep_true_proportions(tmp_path):
    replay = make_replay(tmp_path / "a", "case")
    height, width, _ = matplotlib.image.imread(io.BytesIO(projections_png(replay, replay.steps[0]))).shape
    breadth_mm, depth_mm, height_mm, gap_mm = 10 * 5, 20 * 4, 40 * 3, 12
    assert width / height == pytest.approx((breadth_mm + gap_mm + depth_mm) / height_mm, rel=0.02)


@pytest.mark.parametrize(
    ("along", "tumor_mm", "background_mm"),
    [(CORONAL, (12.5, 106.5), (37.5, 16.5)), (SAGITTAL, (18.0, 106.5), (62.0, 16.5))],
)
def test_clicks_lie_on_the_centres_of_their_voxels(tmp_path, along, tumor_mm, background_mm):
    replay = make_replay(tmp_path / "a", "case")
    axes = Figure().add_subplot()
    draw_projection(axes, replay, replay.steps[1], along)
    background, tumor = (tuple(np.ravel(line.get_xydata())) for line in axes.lines)
    assert tumor == pytest.approx(tumor_mm)
    assert background == pytest.approx(background_mm)


@pytest.mark.parametrize(
    ("direction", "flipped"),
    [
        (IDENTITY, (False, False)),
        ((-1.0, 0, 0, 0, 1, 0, 0, 0, 1), (True, False)),
        ((1, 0, 0, 0, 1, 0, 0, 0, -1.0), (False, True)),
    ],
)
def test_the_head_is_up_and_the_left_is_right(tmp_path, direction, flipped):
    """The hot voxel is near the top (z) and the patient's right (x) of the array."""
    replay = make_replay(tmp_path / "a", "case", direction=direction)
    axes = Figure().add_subplot()
    draw_projection(axes, replay, replay.steps[0], CORONAL)
    pet = axes.images[0]
    row, column = np.argwhere(pet.get_array() == 10)[0]
    assert (row, column, pet.origin) == (35, 2, "lower")
    assert (axes.xaxis_inverted(), axes.yaxis_inverted()) == flipped
