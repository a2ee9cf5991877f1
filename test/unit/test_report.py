import gc
import io
import re
import weakref
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers.page import Page
from matplotlib.figure import Figure

from lesionclick.evaluation.expected import read_scores
from lesionclick.evaluation.figures import CORONAL, DARK, LIGHT, SAGITTAL, curves_svg, draw_curve
from lesionclick.evaluation.lesions import score_lesions
from lesionclick.evaluation.longitudinal_figures import Scene, draw_axial, draw_coronal, lesion_png
from lesionclick.evaluation.longitudinal_replay import LongitudinalReplay, LongitudinalStep
from lesionclick.evaluation.measures import CHALLENGE, LESIONS, MaskPair, Scores, score
from lesionclick.evaluation.petct_figures import draw_projection, projections_png
from lesionclick.evaluation.petct_replay import MASK, PetCtReplay, PetCtStep
from lesionclick.evaluation.report import PICTURED, Report
from lesionclick.evaluation.steps import Replay
from lesionclick.evaluation.tables import steps_text
from lesionclick.grand_challenge.interfaces import PRIMARY
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.case import Baseline, Followup, LongitudinalCase
from lesionclick.petct.rules import RulesActed
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

NAN = float("nan")
DASH = "\N{EN DASH}"
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def make_scores(dsc: float, fpv_ml: float, fnv_ml: float) -> Scores:
    return Scores({"dsc": dsc, "fpv_ml": fpv_ml, "fnv_ml": fnv_ml})


def make_replay(
    folder: Path, name: str, direction=IDENTITY, scores: Scores | None = None, steps=range(11), rules=None
) -> PetCtReplay:
    """10 x 20 x 40 voxels (x, y, z) of 5 x 4 x 3 mm; one hot voxel that is the label and the prediction."""
    grid = Grid((10, 20, 40), (5.0, 4.0, 3.0), (0.0, 0.0, 0.0), direction)
    pet = np.zeros(grid.shape_zyx, dtype=np.float32)
    pet[35, 4, 2] = 10
    label = Volume((pet > 5).astype(np.uint8), grid)
    folder.mkdir(exist_ok=True)
    label.write(folder / "mask.mha")
    clicks = (Point(TUMOR, (2.0, 4.0, 35.0)), Point(BACKGROUND, (7.0, 15.0, 5.0)))
    masks = {MASK: folder / "mask.mha"}
    made = tuple(PetCtStep(k, masks, scores, 1.25, Prompts(clicks * k), rules) for k in steps)
    return PetCtReplay(name, {MASK: label} if scores else {}, made, Volume(pet, grid))


def write_report(output: Path, *replays: Replay, run: str = "test") -> Path:
    report = Report(output)
    for replay in replays:
        report.add(replay)
    return report.write(run=run)


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """A folder with the report of three cases."""
    tmp_path = tmp_path_factory.mktemp("report")
    replays = [
        make_replay(tmp_path / "a", "fdg <one>", scores=make_scores(0.5, 2.0, 1.0), rules=RulesActed(9, 9, 4, 0, 3)),
        make_replay(tmp_path / "b", "negative", scores=make_scores(NAN, 37.5, NAN)),
        make_replay(tmp_path / "c", "unlabelled", steps=(0, 5)),
    ]
    return write_report(tmp_path / "out", *replays, run="in one <process> on cpu").parent


@pytest.fixture(scope="module")
def page(output) -> str:
    return (output / "report.html").read_text(encoding="utf-8")


def test_report_needs_no_other_file_and_no_network(page):
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe|object)|@import|url\(", page)
    sources = re.findall(r'src(?:set)?="([^"]{0,30})', page)
    pngs = [source for source in sources if source.startswith("data:image/png;base64,")]
    svgs = [source for source in sources if source.startswith("data:image/svg+xml;base64,")]
    assert len(pngs) == 4 + 4 + 2  # steps 0, 1, 5, 10 of two cases, 0 and 5 of the third
    assert len(svgs) == 2 * 2  # curves for light and dark of the two cases that have a label
    assert len(pngs) + len(svgs) == len(sources)


def test_names_are_text_and_never_markup(page):
    assert "fdg &lt;one&gt;" in page
    assert "&lt;process&gt;" in page
    assert not re.search("<(one|process)>", page)


def test_report_shows_every_step_with_scores_and_seconds(page):
    shown = Page(page)
    assert shown.titles == ["Summary", "fdg <one>", "negative", "unlabelled"]
    _, first, negative, unlabelled = shown.tables
    assert first[0] == [
        *("Step", "Tumour clicks", "Background clicks", "Corrected", "Removed", "DSC", "FPV ml", "FNV ml", "Seconds")
    ]
    assert [len(table) for table in (first, negative, unlabelled)] == [12, 12, 3]
    assert first[11] == ["10", "10", "10", "4 + 0", "3", "0.500", "2.00", "1.00", "1.2"]
    assert negative[2] == ["1", "1", "1", DASH, DASH, DASH, "37.50", DASH, "1.2"]
    assert unlabelled[2] == ["5", "5", "5", *[DASH] * 5, "1.2"]


def test_summary_has_first_step_last_step_and_areas_of_complete_curves_alone(page):
    groups, head, *rows = Page(page).tables[0]
    assert groups == ["", "First step", "Last step", "Area (AUC)", ""]
    assert head == ["Case", *["DSC", "FPV ml", "FNV ml"] * 3, "Seconds per step"]
    assert rows == [
        ["fdg <one>", *["0.500", "2.00", "1.00"] * 2, "5.000", "20.00", "10.00", "1.2"],
        ["negative", *[DASH, "37.50", DASH] * 2, DASH, "375.00", DASH, "1.2"],
        ["unlabelled", *[DASH] * 9, "1.2"],
        ["Mean", *["0.500", "19.75", "1.00"] * 2, "5.000", "197.50", "10.00", "1.2"],
    ]


def test_every_measure_is_explained(page):
    for measure in CHALLENGE:
        assert f"<dt>{measure.title}</dt><dd>{measure.meaning}</dd>" in page


def test_report_names_what_ran(page):
    for text in ("on cpu", "lesionclick 0", "torch 2", "nnunetv2 2", "Python 3"):
        assert text in page


def test_scores_and_picture_lie_beside_the_report(output):
    scores = read_scores(output / "scores.json")
    assert scores["fdg <one>"]["10"] == {"dsc": 0.5, "fpv_ml": 2.0, "fnv_ml": 1.0}
    assert set(scores) == {"fdg <one>", "negative"}
    height, width, _ = matplotlib.image.imread(output / "picture.png").shape
    assert width > 2 * height


def test_a_report_of_many_cases_holds_the_images_of_none_but_those_of_its_picture(tmp_path):
    report, pets = Report(tmp_path / "out"), []
    for number in range(PICTURED + 2):
        replay = make_replay(tmp_path / str(number), f"case {number}", scores=make_scores(0.5, 2.0, 1.0), steps=(0, 5))
        report.add(replay)
        pets.append(weakref.ref(replay.pet))
        del replay
    gc.collect()
    assert [pet() is not None for pet in pets] == [True] * PICTURED + [False] * 2
    page = report.write(run="test").read_text(encoding="utf-8")
    assert all(page.count(f"<h2>case {number}</h2>") == 1 for number in range(PICTURED + 2))
    assert list(read_scores(tmp_path / "out" / "scores.json")) == [f"case {number}" for number in range(PICTURED + 2)]
    _, width, _ = matplotlib.image.imread(tmp_path / "out" / "picture.png").shape
    assert width < 5000


def test_a_name_that_looks_like_a_formula_is_shown_as_it_is(tmp_path):
    replay = make_replay(tmp_path / "a", r"$\case$", scores=make_scores(0.5, 2.0, 1.0), steps=(0, 5))
    write_report(tmp_path / "out", replay)
    assert (tmp_path / "out" / "picture.png").exists()


def test_a_terminal_shows_the_same_scores(tmp_path):
    name, head, *steps = steps_text(
        make_replay(tmp_path, "one", scores=make_scores(NAN, 37.5, NAN)).result
    ).splitlines()
    assert name == "one"
    assert head.split() == ["step", "points", "DSC", "FPV", "ml", "FNV", "ml", "seconds"]
    assert [line.split() for line in steps] == [[str(k), str(2 * k), "-", "37.50", "-", "1.2"] for k in range(11)]
    assert {len(line) for line in (head, *steps)} == {len(head)}


def test_a_curve_has_the_points_that_are_defined(tmp_path):
    dsc, fpv, _ = CHALLENGE
    result = make_replay(tmp_path, "case", scores=make_scores(NAN, 37.5, NAN), steps=(0, 5, 10)).result
    axes = Figure().add_subplot()
    assert draw_curve(axes, dsc, result) == []
    assert axes.get_ylim() == (0, 1)
    assert draw_curve(axes, fpv, result) == [(0, 37.5), (5, 37.5), (10, 37.5)]
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[0, 37.5], [5, 37.5], [10, 37.5]]
    assert axes.get_ylim()[1] > 37.5


def test_curves_are_drawn_for_light_and_dark(tmp_path):
    result = make_replay(tmp_path, "case", scores=make_scores(0.5, 2.0, 1.0)).result
    light, dark = (curves_svg(result, theme).decode() for theme in (LIGHT, DARK))
    for drawn, theme, other in ((light, LIGHT, DARK), (dark, DARK, LIGHT)):
        assert theme.ink in drawn
        assert other.ink not in drawn


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


# --- Task 2 ----------------------------------------------------------------------------------------------------------

THEN_GRID = Grid((30, 20, 10), (2.0, 3.0, 5.0))
NOW_GRID = Grid((20, 25, 12), (2.5, 2.0, 5.0), (7.0, 8.0, 9.0))


def blocks(grid: Grid, **sizes: int) -> np.ndarray:
    """Lesion n, given as `n<n>=<voxels>`, is a row of so many voxels from x = 5 on, at y = 2 n and z = n."""
    mask = np.zeros(grid.shape_zyx, dtype=np.uint16)
    for name, size in sizes.items():
        n = int(name[1:])
        mask[n, 2 * n, 5 : 5 + size] = n
    return mask


def make_longitudinal(folder: Path, name: str = "later", labelled: bool = True) -> LongitudinalReplay:
    """Lesion 1 grew, 2 shrank, 3 vanished, 4 is new, 5 stayed; step 0 finds half of 1 alone, step 1 all and 3."""
    then = blocks(THEN_GRID, n1=4, n2=8, n3=2, n5=6)
    label = blocks(NOW_GRID, n1=8, n2=2, n4=4, n5=8)
    founds = [blocks(NOW_GRID, n1=4), blocks(NOW_GRID, n1=8, n2=2, n3=2, n4=4, n5=8)]
    cts = [Volume(np.zeros(grid.shape_zyx, dtype=np.float32), grid) for grid in (THEN_GRID, NOW_GRID)]
    baseline = Baseline("primary", cts[0], Volume(then, THEN_GRID), {1: (6.5, 2.0, 1.0)})
    followup = Followup("primary", cts[1], {1: (8.5, 2.0, 1.0)})
    folder.mkdir(exist_ok=True)
    steps = []
    for number, found in enumerate(founds):
        masks = {PRIMARY.mask.socket: folder / f"{number}.mha"}
        Volume(found, NOW_GRID).write(folder / f"{number}.mha")
        lesions, scores = {}, None
        if labelled:
            lesions = {"primary": score_lesions(label, found, NOW_GRID.spacing_zyx, (1, 2, 3, 5))}
            pair = MaskPair(label, found, NOW_GRID.spacing_zyx)
            scores = score(CHALLENGE, [pair]) | score(LESIONS, lesions["primary"])
        steps.append(LongitudinalStep(number, masks, scores, 2.5, number, lesions))
    labels = {PRIMARY.mask.socket: Volume(label, NOW_GRID)} if labelled else {}
    return LongitudinalReplay(name, labels, tuple(steps), LongitudinalCase((baseline,), (followup,)))


@pytest.fixture(scope="module")
def both_page(tmp_path_factory) -> str:
    """The report of a case of Task 1 and two of Task 2."""
    folder = tmp_path_factory.mktemp("both")
    replays = [
        make_longitudinal(folder / "a", "later <one>"),
        make_replay(folder / "b", "fdg", steps=(0,)),
        make_longitudinal(folder / "c", "unlabelled", labelled=False),
    ]
    return write_report(folder / "out", *replays).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def both(both_page) -> Page:
    return Page(both_page)


def test_both_tasks_have_their_summary_and_their_cases(both_page, both):
    assert both.titles == ["Summary of Task 1", "Summary of Task 2", "fdg", "later <one>", "unlabelled"]
    assert "<title>Replay of Task 1, click by click and Task 2, lesion by lesion</title>" in both_page
    *_, later, unlabelled = both_page.split("<h2>")
    assert [section.count('src="data:image/png;base64,') for section in (later, unlabelled)] == [1 + 5, 1 + 5]


def test_each_lesion_has_a_row(both):
    groups, head, *rows = both.tables[3]
    assert groups == ["", "Step 0", "Step 1"]
    assert head == ["Lesion", "Status", "Then ml", "Now ml", "Change %", *["ml", "Change %", "DSC"] * 2]
    # voxels of 0.03 ml then and 0.025 ml now
    assert rows == [
        ["1", "grown", "0.12", "0.20", "+67", "0.10", "-17", "0.667", "0.20", "+67", "1.000"],
        ["2", "shrunk", "0.24", "0.05", "-79", "0.00", "-100", "0.000", "0.05", "-79", "1.000"],
        ["3", "vanished", "0.06", "0.00", "-100", "0.00", "-100", DASH, "0.05", "-17", DASH],
        ["4", "new", "0.00", "0.10", DASH, "0.00", DASH, "0.000", "0.10", DASH, "1.000"],
        ["5", "unchanged", "0.18", "0.20", "+11", "0.00", "-100", "0.000", "0.20", "+11", "1.000"],
    ]


def test_without_a_label_the_last_step_tells_the_status(both):
    _, _, *rows = both.tables[4]
    assert [row[:2] for row in rows] == [
        ["1", "grown"],
        ["2", "shrunk"],
        ["3", "unchanged"],
        ["4", "new"],
        ["5", "unchanged"],
    ]
    assert {row[3] for row in rows} == {DASH}


def test_summary_of_task_2_has_both_steps_means_and_all_lesions(both):
    head, *rows = both.tables[1]
    assert head == ["Case", "Step", *(measure.heading for measure in LongitudinalReplay.measures), "Seconds"]
    names = ("later <one>", "unlabelled", "Mean of cases", "All lesions")
    assert [row[:2] for row in rows] == [[name, step] for name in names for step in ("0", "1")]
    # step 0 finds 4 of 22 voxels and misses lesions of 14; lesion 1 has 2/3, two voxels of 2.5 mm beside its centre
    first = ["0.308", "0.00", "0.35", "0.167", "25", "100", "5.0", "88"]
    second = ["0.957", "0.05", "0.00", "1.000", "100", "0", "0.0", "0"]
    assert [row[2:] for row in rows] == [
        [*first, "2.5"],
        [*second, "2.5"],
        *[[DASH] * 8 + ["2.5"]] * 2,
        [*first, "2.5"],
        [*second, "2.5"],
        [*[DASH] * 3, *first[3:], DASH],
        [*[DASH] * 3, *second[3:], DASH],
    ]


def test_a_report_of_task_2_alone_has_no_picture_of_task_1(tmp_path):
    page = write_report(tmp_path / "out", make_longitudinal(tmp_path / "a")).read_text(encoding="utf-8")
    assert "<title>Replay of Task 2, lesion by lesion</title>" in page
    assert "click by click" not in page
    assert Page(page).titles == ["Summary", "later"]
    assert not (tmp_path / "out" / "picture.png").exists()
    assert set(read_scores(tmp_path / "out" / "scores.json")["later"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("direction", "reversed_xy"), [(IDENTITY, (False, True)), ((-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1), (True, False))]
)
def test_an_axial_crop_is_square_with_the_left_on_the_right_and_the_front_up(direction, reversed_xy):
    """In the patient x runs to the left and y to the back."""
    grid = Grid((20, 25, 12), (2.5, 2.0, 5.0), (0.0, 0.0, 0.0), direction)
    scene = Scene("now", Volume(np.zeros(grid.shape_zyx), grid), blocks(grid, n1=3), None, {1: (6.0, 2.0, 1.0)})
    axes = Figure().add_subplot()
    draw_axial(axes, scene, np.array([6.0, 2.0, 1.0]), 30.0, number=1)
    assert sorted(axes.get_xlim()) == pytest.approx([16.25 - 30, 16.25 + 30])
    assert sorted(axes.get_ylim()) == pytest.approx([5 - 30, 5 + 30])
    assert axes.get_aspect() in (1, "equal")
    (point,) = axes.lines
    assert tuple(np.ravel(point.get_xydata())) == pytest.approx((16.25, 5.0))
    assert (axes.xaxis_inverted(), axes.yaxis_inverted()) == reversed_xy


def test_a_coronal_view_names_each_lesion_at_its_place():
    grid = NOW_GRID
    scene = Scene("now", Volume(np.zeros(grid.shape_zyx), grid), blocks(grid, n1=3), blocks(grid, n1=5, n4=1), {})
    axes = Figure().add_subplot()
    draw_coronal(axes, scene)
    places = {text.get_text(): text.xy for text in axes.texts}
    # the outlined lesion counts where there is one: voxels 5 to 7 of 2.5 mm, in plane 1 of 5 mm
    assert places == {"1": pytest.approx((6.5 * 2.5, 1.5 * 5)), "4": pytest.approx((5.5 * 2.5, 4.5 * 5))}
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 50), (0, 60))


def test_a_lesion_that_is_nowhere_in_the_followup_is_drawn_all_the_same():
    scene = Scene("now", Volume(np.zeros(NOW_GRID.shape_zyx), NOW_GRID), None, blocks(NOW_GRID, n1=3), {})
    for then in (None, Scene("then", scene.ct, blocks(NOW_GRID, n2=3), None, {})):
        height, width, _ = matplotlib.image.imread(io.BytesIO(lesion_png(then, (scene, scene), 2))).shape
        assert width > 2.5 * height
