"""Training against what people use today: the step, the start and the input.

``python -m benchmarks.train`` runs ``benchmarks.training_step`` and ``benchmarks.training_input`` and ends
with one JSON line that has the keys of both. About half an hour on two cores; each can be run by itself.
"""

from benchmarks import training_input, training_step
from benchmarks.measure import print_result


def main() -> None:
    """Measures both and prints their figures together."""
    step = training_step.measure()
    print()
    print_result(**step, **training_input.measure())


if __name__ == "__main__":
    main()
