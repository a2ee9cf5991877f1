"""Task 1: a PET/CT and prompts become a mask of the lesions."""
