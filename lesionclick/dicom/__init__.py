"""DICOM in and out: a study becomes a case, a mask becomes a segmentation object. Needs the extra `dicom`."""
