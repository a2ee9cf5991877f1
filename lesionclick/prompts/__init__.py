"""What was clicked or drawn, how it becomes channels of an image, and the file that says so."""
