"""Many cases on many machines, by Dask distributed. Never imported by the container's path."""
