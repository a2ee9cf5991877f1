"""A folder that whoever runs the tests cannot write to."""

import os
from pathlib import Path


def read_only_folder(folder: Path) -> Path:
    """Close a new folder to its owner; root, whom that does not stop, gets one of the kernel's."""
    if os.getuid() == 0:
        return Path("/proc/self/fdinfo")
    folder.mkdir(mode=0o555)
    return folder
