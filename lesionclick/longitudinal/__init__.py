"""Task 2: two CTs and the lesions of the first become a mask of the second, lesion by lesion."""
