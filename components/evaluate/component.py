"""The evaluate step as a KFP component."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

# A user interface draws a matrix of more classes as noise, and its JSON outgrows a metadata store.
_LARGEST_MATRIX = 100


def evaluate(
    dataset: Input[Dataset],
    model: Input[Model],
    metrics: Output[Metrics],
    classification_metrics: Output[ClassificationMetrics],
    report: Output[HTML],
    evaluation: Output[Artifact],
) -> None:
    """Measures the model on every validation image, through the signature that is served.

    Args:
        dataset: What the convert step made.
        model: What the train step made.
        metrics: Top-1 and top-5 accuracy, loss and number of images.
        classification_metrics: The confusion matrix (up to 100 classes).
        report: A page with accuracy, learning curve, precision and recall of each class, confusion
            matrix, the worst mistakes with their pictures, the arguments and the data counts.
        evaluation: metrics.json, and the predictions that the export step compares with.
    """
    from components.evaluate.evaluate import EvaluationFiles
    from components.evaluate.evaluate import evaluate as run_evaluation

    files = EvaluationFiles(folder=Path(evaluation.path), report=Path(report.path))
    result, manifest = run_evaluation(Path(dataset.path), Path(model.path), files)
    metrics.log_metric("top_1_accuracy", result.top_1_accuracy)
    metrics.log_metric("top_5_accuracy", result.top_5_accuracy)
    metrics.log_metric("loss", result.loss)
    metrics.log_metric("examples", float(result.examples))
    if manifest.num_classes <= _LARGEST_MATRIX:
        classification_metrics.log_confusion_matrix(list(manifest.labels), result.confusion_matrix().tolist())
