"""Finished runs over many cases: read, summed up with intervals, compared, ranked, and shown."""
