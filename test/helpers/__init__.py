"""What several tests use: cases, model folders and faults that they write."""
