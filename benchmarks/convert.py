"""Converting, compared with a Beam converter that decodes with TensorFlow, and with decoding alone.

``python -m benchmarks.convert``. Takes about ten minutes on two cores and 20 GB of disk; ``--quick`` skips
the 300,000 rows.

The rows beyond 3,000 repeat the 3,000 images, like lists with repeated rare classes: the converter reads the
file of each row, but decodes each distinct image once. So the speed of decoding is compared on the 3,000
distinct images, and a line of the output compares the rates with Beam for distinct images only.

Beam's converter does not search for near-duplicates, so ours runs without that; ``near_duplicates_cost`` is
the time with it, which is the default, relative to the time without.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.corpus import write_corpus, write_rows
from benchmarks.measure import (
    REPOSITORY,
    Measured,
    in_turns,
    median_seconds,
    peak,
    print_result,
    print_runs,
    ratio,
    run,
)
from benchmarks.needs import check_needs

SMALL, MIDDLE, LARGE = 3_000, 30_000, 300_000


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="skip the 300,000 rows")
    quick = parser.parse_args().quick
    check_needs(minutes=5 if quick else 10, disk_gb=5 if quick else 20, packages=["apache_beam"])
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        _benchmark(Path(name), quick)


def _benchmark(folder: Path, quick: bool) -> None:
    images = folder / "images"
    names = write_corpus(images)
    for rows in (SMALL, MIDDLE, LARGE):
        write_rows(images / f"{rows}.csv", names, rows)
    size = sum((images / name).stat().st_size for name in names) / len(names) / 1e3
    print(f"{len(names):,} JPEG files of {size:.0f} KB on average")
    _convert("ours", folder, SMALL)  # fills the page cache and writes bytecode
    measured = {
        rows: in_turns({side: partial(_convert, side, folder, rows) for side in sides}, repeats)
        for rows, sides, repeats in (
            (SMALL, ("ours", "beam", "ours, near-duplicates"), 3),
            (MIDDLE, ("ours", "beam"), 1),
        )
    }
    small, middle = measured[SMALL], measured[MIDDLE]
    rates = [_rates(folder) for _ in range(11)]
    large = [] if quick else [_convert("ours", folder, LARGE)]
    print_runs(measured | ({LARGE: {"ours": large}} if large else {}))
    beam_rate = (MIDDLE - SMALL) / (median_seconds(middle["beam"]) - median_seconds(small["beam"]))
    our_rate = statistics.median(ours for ours, _ in rates)
    print(f"distinct images only, without startup: {our_rate / beam_rate:.2f} times beam")
    print_result(
        vs_beam_3000=ratio(small["beam"], small["ours"]),
        vs_beam_30000=ratio(middle["beam"], middle["ours"]),
        # Not the median of the ratios: each is of two differences of single runs, and varies by a fifth.
        vs_decode_limit=our_rate / statistics.median(limit for _, limit in rates),
        near_duplicates_cost=ratio(small["ours, near-duplicates"], small["ours"]),
        peak_mb=peak(small["ours"]),
        **({"peak_mb_300000": peak(large)} if large else {}),
    )


def _convert(side: str, folder: Path, rows: int, *, measure_memory: bool = True) -> Measured:
    csv, output = folder / "images" / f"{rows}.csv", folder / "output"
    ours = ["-m", "imgpipe.components.convert", f"--train_csv={csv}", f"--output_dir={output}"]
    commands = {
        "ours": [*ours, "--group_near_duplicates=false"],
        "ours, near-duplicates": ours,
        "beam": ["-m", "benchmarks.beam_converter", str(csv), str(output)],
    }
    output.mkdir()
    try:
        return run(commands[side], measure_memory=measure_memory)
    finally:
        shutil.rmtree(output)


def _rates(folder: Path) -> tuple[float, float]:
    """Returns images per second of the converter and of decoding alone, with distinct images.

    The converter's startup time, measured with a few rows, is excluded.
    """
    few = 10
    names = sorted(path.name for path in (folder / "images").glob("*.jpg"))
    write_rows(folder / "images" / f"{few}.csv", names[:few], few)
    startup = _convert("ours", folder, few, measure_memory=False).seconds
    limit = subprocess.run(
        [sys.executable, "-m", "benchmarks.decode_limit", str(folder / "images"), str(SMALL)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = _convert("ours", folder, SMALL, measure_memory=False).seconds
    return (SMALL - few) / (seconds - startup), float(limit.stdout)


if __name__ == "__main__":
    main()
