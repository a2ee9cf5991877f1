"""Write the sample cases of real patients again, from the crops that `benchmarks/crops.py` makes.

python benchmarks/samples.py --sts ../shared/data/sts
"""

import argparse
from pathlib import Path

from lesionclick.evaluation.samples import write_real_sample

PATIENTS = ("STS_002", "STS_044")
"""Two of the patients that are never trained on; the organisers' own clicks for both lie in `test/golden`."""


def main() -> None:
    """Write cases and labels into the folders of `test`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sts", type=Path, default=Path("../shared/data/sts"), help="folder with the crops")
    parser.add_argument("--test", type=Path, default=Path("test"), help="folder with input and labels (default: test)")
    args = parser.parse_args()
    for patient in PATIENTS:
        name = patient.lower()
        write_real_sample(args.sts / patient, args.test / "input" / name, args.test / "labels" / f"{name}.mha")
        print(args.test / "input" / name)


if __name__ == "__main__":
    main()
