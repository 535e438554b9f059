"""Does in one process what a run does: convert, train, evaluate and export. A side of benchmarks.run.

``python -m benchmarks.run_script FOLDER STEPS``. It calls the steps' own functions, so the work is the same.
It leaves out what a script would: the check of all arguments and validate. The exported model is loaded again
and its predictions are written, as export does in a new process.
"""

import sys
from pathlib import Path

from imgpipe.components.common.arguments import from_values
from imgpipe.components.common.published_model import publish_model
from imgpipe.components.common.reference_predictions import read_reference
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.evaluate import evaluate
from imgpipe.components.export.serving_check import ServingCheckArguments, write_predictions
from imgpipe.components.storage import parse_location
from imgpipe.components.train.arguments import RecipeTrainingArguments
from imgpipe.components.train.train import train
from imgpipe.pipelines.sample_data import write_digits


def main() -> None:
    """Runs the script."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    dataset, model, evaluation = folder / "dataset", folder / "trained", folder / "evaluation"
    csv = write_digits(folder / "digits")
    values = {
        "train_csv": str(csv),
        "job_dir": str(folder),
        "recipe": "digits",
        "max_steps": steps,
        "train_steps_per_eval": steps,
    }
    convert(from_values(ConvertArguments, values), dataset)
    train(from_values(RecipeTrainingArguments, values).resolved(), dataset, model)
    evaluate(dataset, model, evaluation, from_values(EvaluateArguments, values))
    published = publish_model(model, parse_location(str(folder)))
    examples = len(read_reference(evaluation))
    check = ServingCheckArguments(
        str(published), str(dataset), examples=examples, predictions=str(folder / "predictions.npz")
    )
    write_predictions(check)


if __name__ == "__main__":
    main()
