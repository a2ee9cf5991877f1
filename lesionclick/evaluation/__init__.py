"""Official metrics, replay and report; never imported by the container's path."""
