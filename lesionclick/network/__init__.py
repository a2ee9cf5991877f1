"""An nnU-Net model folder becomes logits: preprocessing, tiles, folds. Knows no task and no files of a case."""
