"""The evaluate step as a KFP component."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from imgpipe.components.evaluate.arguments import EvaluateArguments

# A larger matrix is unreadable in a user interface, and its JSON too large for a metadata store.
_MAX_MATRIX_CLASSES = 100
# The same holds for the list of metrics; metrics.json and the report have all slices.
_MAX_SLICES = 50


def evaluate(
    dataset: Input[Dataset],
    model: Input[Model],
    metrics: Output[Metrics],
    classification_metrics: Output[ClassificationMetrics],
    report: Output[HTML],
    evaluation: Output[Artifact],
    arguments: EvaluateArguments,
) -> None:
    """Evaluates the model on all validation or test images, through the signature that is served.

    Args:
        dataset: The dataset from the convert step.
        model: The model from the train step.
        metrics: Top-1 accuracy with a 95% confidence interval, also on the test split if there is one, top-5
            accuracy, loss, expected calibration error (and before the model's
            temperature) and number of images; with a champion, its accuracy and the difference with a 95%
            confidence interval; with slices_csv, the accuracy of each slice; with multi_label, mean average
            precision and F1.
        classification_metrics: The confusion matrix (up to 100 classes; none with multi_label).
        report: HTML report with accuracy, learning curves, precision and recall of each class and at each
            threshold, calibration, accuracy by slice, comparison with the champion, confusion matrix, the
            mistakes with their images, the training arguments and the number of images per label.
        evaluation: metrics.json, predictions.csv with the prediction of every image, and reference
            predictions for the export step.
        arguments: Which images to evaluate on, and which model to compare with.
    """
    from imgpipe.components.common.mlflow import current_run
    from imgpipe.components.evaluate.evaluate import evaluate as run_evaluation
    from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics

    result = run_evaluation(
        Path(dataset.path), Path(model.path), Path(evaluation.path), arguments, report=Path(report.path)
    )
    given = [part for part in result.slices if part.given][:_MAX_SLICES]
    slices = {f"top_1_accuracy, {part.name} = {part.value}": part.top_1_accuracy for part in given}
    figures = {**result.figures(), **slices}
    for name, value in figures.items():
        metrics.log_metric(name, float(value))
    if tracked := current_run():
        tracked.add_metrics({f"evaluate/{name}": float(value) for name, value in figures.items()})
        tracked.flush(is_last=True)
    if not isinstance(result.metrics, MultiLabelMetrics) and len(result.labels) <= _MAX_MATRIX_CLASSES:
        classification_metrics.log_confusion_matrix(
            list(result.labels), result.metrics.confusion_matrix().tolist()
        )
