"""Feed broken click files and image headers to the reader of cases, and count what becomes of them.

python benchmarks/fuzz.py --seconds 600

Each round takes a small good case, changes a few bytes or values of one file, and reads it. The case is either read or
refused by an InputError of one line; anything else ends the run with the file that did it.
"""

import argparse
import json
import logging
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from lesionclick.errors import InputError
from lesionclick.evaluation.samples import phantom_visits, write_longitudinal_sample, write_sample
from lesionclick.simulation.phantoms import make_phantom
from lesionclick.tasks import read_case

HOSTILE = (
    *(
        b"",
        b"0",
        b"-1",
        b"1e999",
        b"NaN",
        b"99999999999999999999",
        b"[]",
        b"{}",
        b"null",
        b"true",
        b'"',
        b"\\",
        b"\x00",
    ),
    *(
        b"\xff\xfe",
        b"[" * 2000,
        b"../../etc/passwd",
        b"LIST",
        b"MET_DOUBLE",
        b"4",
        b"False",
        b"%s%n",
        "\u202e".encode(),
    ),
)
HEADER_BYTES = 400
"""Length of the part of an image file that is changed: its header, and the first voxels."""


def change(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with one to four changes: other bytes, hostile words, cuts, and parts that come twice."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        low = int(rng.integers(0, max(1, min(len(data), HEADER_BYTES))))
        high = low + int(rng.integers(0, 12))
        kind = rng.integers(5)
        if kind == 0:
            data[low : low + 1] = bytes([rng.integers(256)])
        elif kind == 1:
            data[low:high] = HOSTILE[rng.integers(len(HOSTILE))]
        elif kind == 2:
            del data[low:high]
        elif kind == 3:
            data[low:low] = data[low:high]
        else:
            value = data.find(b"= ", low) + 2  # the next value of a header
            data[value : max(data.find(b"\n", value), value)] = HOSTILE[rng.integers(len(HOSTILE))]
    return bytes(data)


def main() -> None:
    """Run until the time is up, and print how many cases were read and refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    rng = np.random.default_rng(args.seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        cases = [Path(folder, "task1"), Path(folder, "task2")]
        small: dict[str, Any] = {"spacing_xyz": (20.0, 20.0, 20.0), "field_of_view": (0.4, 0.6)}
        write_sample(make_phantom(0, "fdg", lesions=2, **small), 0, cases[0])
        write_longitudinal_sample([phantom_visits(0, 3, **small)], "fuzz", cases[1])
        files = [(case, path) for case in cases for path in sorted(case.rglob("*")) if path.is_file()]
        end = monotonic() + args.seconds
        while monotonic() < end:
            case, path = files[rng.integers(len(files))]
            good = path.read_bytes()
            path.write_bytes(bad := change(good, rng))
            try:
                read_case(case)
                outcomes[f"{path.suffix} read"] += 1
            except InputError as error:
                if len(str(error).splitlines()) != 1:
                    raise AssertionError(f"a message of several lines for {bad[:HEADER_BYTES]!r}") from error
                outcomes[f"{path.suffix} refused"] += 1
            except Exception as error:
                raise AssertionError(f"{path.name}: {bad[:HEADER_BYTES]!r}") from error
            finally:
                path.write_bytes(good)
    print(json.dumps(dict(sorted(outcomes.items()))))


if __name__ == "__main__":
    main()
