"""A training that is stopped while it writes a checkpoint goes on from the one before."""

from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from lesionclick.training.train import find_trainer


@pytest.mark.parametrize("name", ["nnUNetTrainerClicks", "nnUNetTrainerLongitudinalSmall"])
def test_a_checkpoint_that_is_not_finished_takes_no_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = find_trainer(name)
    trainer = kind.__new__(kind)
    trainer.local_rank, trainer.disable_checkpointing = 0, False
    written = iter([b"first", b"second, but cut o"])

    def save(_trainer: nnUNetTrainer, filename: str) -> None:
        content = next(written)
        Path(filename).write_bytes(content)
        if content != b"first":
            raise KeyboardInterrupt

    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", save)
    path = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(path))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"first"


def test_only_the_first_of_several_ranks_writes(tmp_path: Path) -> None:
    kind = find_trainer("nnUNetTrainerClicks")
    trainer = kind.__new__(kind)
    trainer.local_rank, trainer.disable_checkpointing = 1, False
    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    assert list(tmp_path.iterdir()) == []
