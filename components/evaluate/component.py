"""The evaluate step as a KFP component."""

from pathlib import Path

from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from imgpipe.components.evaluate.arguments import EvaluateArguments

# A user interface draws a matrix of more classes as noise, and its JSON outgrows a metadata store.
_LARGEST_MATRIX = 100
# Likewise a list of metrics; metrics.json and the report have all slices.
_MOST_SLICES = 50


def evaluate(
    dataset: Input[Dataset],
    model: Input[Model],
    metrics: Output[Metrics],
    classification_metrics: Output[ClassificationMetrics],
    report: Output[HTML],
    evaluation: Output[Artifact],
    arguments: EvaluateArguments,
) -> None:
    """Measures the model on every validation or test image, through the signature that is served.

    Args:
        dataset: What the convert step made.
        model: What the train step made.
        metrics: Top-1 and top-5 accuracy, loss, expected calibration error and number of images; with a
            champion, its accuracy and the difference with its 95 % confidence interval; with slices_csv the
            accuracy of each slice. With multi_label mean average precision and F1, and no calibration error.
        classification_metrics: The confusion matrix (up to 100 classes; none with multi_label).
        report: A page with accuracy, learning curve, precision and recall of each class, calibration,
            accuracy by slice, comparison with the champion, confusion matrix, the worst mistakes with their
            pictures, the arguments and the data counts.
        evaluation: metrics.json, and the predictions that the export step compares with.
        arguments: What to measure on and compare with.
    """
    from imgpipe.components.evaluate.evaluate import EvaluationFiles
    from imgpipe.components.evaluate.evaluate import evaluate as run_evaluation
    from imgpipe.components.evaluate.multi_label_metrics import MultiLabelMetrics

    files = EvaluationFiles(folder=Path(evaluation.path), report=Path(report.path))
    found = run_evaluation(Path(dataset.path), Path(model.path), files, arguments)
    result = found.metrics
    metrics.log_metric("top_1_accuracy", result.top_1_accuracy)
    metrics.log_metric("top_5_accuracy", result.top_5_accuracy)
    metrics.log_metric("loss", result.loss)
    metrics.log_metric("examples", float(result.examples))
    if found.calibration is not None:
        metrics.log_metric("expected_calibration_error", found.calibration.expected_calibration_error)
    for one in [one for one in found.slices if one.given][:_MOST_SLICES]:
        metrics.log_metric(f"top_1_accuracy, {one.name} = {one.value}", one.top_1_accuracy)
    if found.comparison is not None:
        metrics.log_metric("champion_top_1_accuracy", found.comparison.champion_top_1_accuracy)
        metrics.log_metric("difference", found.comparison.difference)
        metrics.log_metric("difference_lower", found.comparison.lower)
        metrics.log_metric("difference_upper", found.comparison.upper)
    if isinstance(result, MultiLabelMetrics):
        metrics.log_metric("mean_average_precision", result.mean_average_precision)
        metrics.log_metric("f1", result.f1)
    elif len(found.labels) <= _LARGEST_MATRIX:
        classification_metrics.log_confusion_matrix(list(found.labels), result.confusion_matrix().tolist())
