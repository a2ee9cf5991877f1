"""Click-guided lesion segmentation in PET/CT for the autoPET/CT IV challenge."""

__version__ = "0.1.0"
