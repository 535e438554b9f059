"""Compares training with stock Keras: the training step, the start and the input.

``python -m benchmarks.train`` runs ``benchmarks.training_step`` and ``benchmarks.training_input``, which can
also be run separately, and ends with one JSON line with the results of both. It takes half an hour on two
cores.
"""

from benchmarks import training_input, training_step
from benchmarks.measure import print_result
from benchmarks.needs import check_needs


def main() -> None:
    """Runs both benchmarks and prints their results together."""
    check_needs(minutes=30, disk_gb=6)
    step = training_step.measure()
    print()
    print_result(**step, **training_input.measure())


if __name__ == "__main__":
    main()
