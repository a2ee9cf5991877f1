"""Digital phantoms and simulated clicks; never imported by the container's path."""
