"""The platform's contract: which inputs there are, image files, click files. Knows no network."""
