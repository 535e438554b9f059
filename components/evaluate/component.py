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
    metrics.log_metric("top_1_accuracy", result.metrics.top_1_accuracy)
    metrics.log_metric("top_1_accuracy_lower", result.top_1_accuracy_interval.lower)
    metrics.log_metric("top_1_accuracy_upper", result.top_1_accuracy_interval.upper)
    if result.test is not None:
        metrics.log_metric("test_top_1_accuracy", result.test.top_1_accuracy)
        metrics.log_metric("test_top_1_accuracy_lower", result.test.top_1_accuracy_interval.lower)
        metrics.log_metric("test_top_1_accuracy_upper", result.test.top_1_accuracy_interval.upper)
        metrics.log_metric("test_examples", float(result.test.examples))
        metrics.log_metric("test_expected_calibration_error", result.test.expected_calibration_error)
    metrics.log_metric("top_5_accuracy", result.metrics.top_5_accuracy)
    metrics.log_metric("loss", result.metrics.loss)
    metrics.log_metric("examples", float(result.metrics.examples))
    metrics.log_metric("expected_calibration_error", result.calibration.expected_calibration_error)
    before = result.temperature_scaling.before.expected_calibration_error
    metrics.log_metric("expected_calibration_error_before", before)
    metrics.log_metric("temperature", result.temperature_scaling.temperature)
    for part in [part for part in result.slices if part.given][:_MAX_SLICES]:
        metrics.log_metric(f"top_1_accuracy, {part.name} = {part.value}", part.top_1_accuracy)
    if result.comparison is not None:
        metrics.log_metric("champion_top_1_accuracy", result.comparison.champion_top_1_accuracy)
        metrics.log_metric("difference", result.comparison.difference)
        metrics.log_metric("difference_lower", result.comparison.lower)
        metrics.log_metric("difference_upper", result.comparison.upper)
    if isinstance(result.metrics, MultiLabelMetrics):
        metrics.log_metric("mean_average_precision", result.metrics.mean_average_precision)
        metrics.log_metric("f1", result.metrics.f1)
    if tracked := current_run():
        values = {name: value for name, value in metrics.metadata.items() if isinstance(value, float)}
        tracked.add_metrics({f"evaluate/{name}": value for name, value in values.items()})
        tracked.flush(is_last=True)
    if not isinstance(result.metrics, MultiLabelMetrics) and len(result.labels) <= _MAX_MATRIX_CLASSES:
        classification_metrics.log_confusion_matrix(
            list(result.labels), result.metrics.confusion_matrix().tolist()
        )
