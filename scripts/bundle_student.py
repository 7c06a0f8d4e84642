"""Take the student of a finished run into the package as the model "toy".

python -m scripts.bundle_student runs/toy-full/student
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from radio_core.models import RadioModel
from radio_core.zoo.registry import BUNDLED


def main() -> None:
    """Write the weights in float16 with the name and licence of the release."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    model = RadioModel.from_pretrained(parser.parse_args().student)
    model.config = replace(model.config, name="toy", licence="Apache-2.0")
    model.save_pretrained(BUNDLED["toy"], torch.float16)


if __name__ == "__main__":
    main()
