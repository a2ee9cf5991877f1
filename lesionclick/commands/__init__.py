"""The commands of `lesionclick`, a file each: a function whose types and docstring are the command's options and help.

Each imports what it needs when it runs, so that none waits for PyTorch, or needs the extras, because of another.
"""
