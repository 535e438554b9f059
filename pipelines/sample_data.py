"""The sample data of `imgpipe run`: scikit-learn's digits."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

# scikit-learn's digits have values 0..16.
_LARGEST_VALUE = 16


def write_digits(folder: Path) -> Path:
    """Writes the 1,797 digits (8x8 pixels, 10 classes) as PNG files and a CSV file, as users have them.

    Source of the data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI machine
    learning repository, as bundled with scikit-learn.

    Args:
        folder: Gets ``images/`` and ``digits.csv``; created if it does not exist.

    Returns:
        The CSV's path.
    """
    # Loading it takes a second.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = folder / "images"
    images.mkdir(parents=True)
    csv_path = folder / "digits.csv"
    with csv_path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            name = f"images/digit_{number:04d}.png"
            values = np.round(pixels * (255 / _LARGEST_VALUE)).astype(np.uint8)
            Image.fromarray(values).save(folder / name)
            rows.writerow([name, digit])
    return csv_path
