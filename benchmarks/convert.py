"""Converting against a Beam converter that decodes with TensorFlow, and against the limit of decoding.

``python -m benchmarks.convert``. Takes about ten minutes on two cores and 20 GB of disk; ``--quick`` leaves
the 300,000 rows out.

The rows beyond 3,000 repeat the 3,000 images, as lists do that repeat rare classes: the converter reads each
row's file, but decodes only what it has not seen. So the share of the limit of decoding is measured on the
3,000 different images, and a line says how the rates compare where every image is different.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.corpus import write_corpus, write_rows
from benchmarks.measure import (
    REPOSITORY,
    Measured,
    in_turns,
    median_seconds,
    peak,
    print_result,
    print_table,
    ratio,
    run,
)

SMALL, MIDDLE, LARGE = 3_000, 30_000, 300_000


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave the 300,000 rows out")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        _benchmark(Path(name), quick)


def _benchmark(folder: Path, quick: bool) -> None:
    images = folder / "images"
    names = write_corpus(images)
    for rows in (SMALL, MIDDLE, LARGE):
        write_rows(images / f"{rows}.csv", names, rows)
    size = sum((images / name).stat().st_size for name in names) / len(names) / 1e3
    print(f"{len(names):,} JPEG files of {size:.0f} KB on average")
    _ours(folder, SMALL)()  # the files into the memory of the system, the bytecode onto the disk
    small = in_turns({"ours": _ours(folder, SMALL), "beam": _beam(folder, SMALL)}, 3)
    middle = in_turns({"ours": _ours(folder, MIDDLE), "beam": _beam(folder, MIDDLE)}, 1)
    rates = [_rates(folder) for _ in range(11)]
    table = [
        (
            f"{count:,}",
            name,
            f"{median_seconds(runs):.2f}",
            f"{count / median_seconds(runs):,.0f}",
            f"{peak(runs):.0f}",
        )
        for count, measured in ((SMALL, small), (MIDDLE, middle))
        for name, runs in measured.items()
    ]
    large_peak = float("nan")
    if not quick:
        large = [_ours(folder, LARGE)()]
        large_peak = peak(large)
        rate = f"{LARGE / median_seconds(large):,.0f}"
        table.append((f"{LARGE:,}", "ours", f"{median_seconds(large):.2f}", rate, f"{large_peak:.0f}"))
    print_table(("rows", "side", "seconds", "images/s", "peak MB"), table)
    beam_rate = (MIDDLE - SMALL) / (median_seconds(middle["beam"]) - median_seconds(small["beam"]))
    different = statistics.median(ours for ours, _ in rates) / beam_rate
    print(f"different images only, starting not counted: {different:.2f} times beam")
    print_result(
        vs_beam_3000=ratio(small["beam"], small["ours"]),
        vs_beam_30000=ratio(middle["beam"], middle["ours"]),
        # Not the median of the ratios: each is of two differences of single runs, and swings by a fifth.
        vs_decode_limit=statistics.median(ours for ours, _ in rates)
        / statistics.median(limit for _, limit in rates),
        peak_mb=peak(small["ours"]),
        **({} if quick else {"peak_mb_300000": large_peak}),
    )


def _ours(folder: Path, rows: int) -> Callable[[], Measured]:
    return _converter(folder, lambda output: _command(folder, rows, output))


def _beam(folder: Path, rows: int) -> Callable[[], Measured]:
    return _converter(
        folder,
        lambda output: [
            "-m",
            "benchmarks.beam_converter",
            str(folder / "images" / f"{rows}.csv"),
            str(output),
        ],
    )


def _command(folder: Path, rows: int, output: Path) -> list[str]:
    return [
        "-m",
        "imgpipe.components.convert",
        f"--train_csv={folder / 'images' / f'{rows}.csv'}",
        f"--output_dir={output}",
    ]


def _converter(folder: Path, command: Callable[[Path], list[str]]) -> Callable[[], Measured]:
    def convert() -> Measured:
        output = folder / "output"
        output.mkdir()
        try:
            return run(command(output))
        finally:
            shutil.rmtree(output)

    return convert


def _rates(folder: Path) -> tuple[float, float]:
    """Returns the images a second of the converter and of decoding alone, each image a different one.

    The converter's start is not counted: it is measured by converting a few rows.
    """
    few = 10
    names = sorted(path.name for path in (folder / "images").glob("*.jpg"))
    write_rows(folder / "images" / f"{few}.csv", names[:few], few)
    start = _seconds(folder, few)
    limit = subprocess.run(
        [sys.executable, "-m", "benchmarks.decode_limit", str(folder / "images"), str(SMALL)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return (SMALL - few) / (_seconds(folder, SMALL) - start), float(limit.stdout)


def _seconds(folder: Path, rows: int) -> float:
    """Returns what converting takes while nothing looks at the memory it takes."""
    output = folder / "output"
    output.mkdir()
    started = time.monotonic()
    command = [sys.executable, *_command(folder, rows, output)]
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    seconds = time.monotonic() - started
    shutil.rmtree(output)
    return seconds


if __name__ == "__main__":
    main()
