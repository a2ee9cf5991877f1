"""The one command for whoever has a GPU, tried without one on a case of a few voxels."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_phantom import tiny_phantom

from lesionclick.images import Volume
from lesionclick.petct.case import PetCtCase


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch, baseline_folder: Path) -> list[str]:
    """The command's arguments, of which it will find a tiny case and a tiny network."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import gpu

    phantom = tiny_phantom()
    case = PetCtCase(Volume(phantom.ct.array.astype(np.float32), phantom.ct.grid), phantom.pet)
    monkeypatch.setattr(gpu, "draw_case", lambda _: (case, phantom.label))
    monkeypatch.setattr(gpu, "write_official_folder", lambda *_, **__: baseline_folder)
    monkeypatch.setattr(gpu, "AT_ONCE", (1, 2))
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    return sys.argv


def test_every_table_is_there_without_a_gpu(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    import gpu

    arguments += ["--device", "cpu", "--grid", "tiny", "--small-only"]
    gpu.main()
    lines = capsys.readouterr().out.splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert [heading.split()[1] for heading in headings] == ["Masks", "Where", "Seconds", "Tiles"]
    assert "| embedded | 1.0000 | 0 |" in lines
    assert any(line.startswith("not on a CPU") for line in lines)
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in lines if " | " in line}
    assert int(rows["embedded"][5]) > 0  # tiles of the case that is timed
    assert float(rows["Task 1, 64x48x48"][2]) > 0


def test_without_a_gpu_it_says_so(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu

    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="expected a GPU that PyTorch sees, found none"):
        gpu.main()
    assert arguments == ["gpu.py"]
