"""Data sets, trainers and export of models; never imported by the container's path."""
