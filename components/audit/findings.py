"""What the audit found about single images, and the table in which a person decides about it."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from imgpipe.components.audit.inspection import Inspection
from imgpipe.components.convert.decisions import ACTION, LABEL, PATH, RELABEL

WRONG_LABEL = "wrong label"
TWO_LABELS = "copy with another label"
ACROSS_SPLITS = "copy in another split"
COPY = "copy"
PLACEHOLDER = "placeholder"
BLANK = "blank"
DARK = "dark"
BLURRED = "blurred"
# In the order of the table and the page.
KINDS = (WRONG_LABEL, TWO_LABELS, ACROSS_SPLITS, PLACEHOLDER, BLANK, DARK, BLURRED, COPY)
# Each needs images that have one label.
NEED_ONE_LABEL = (WRONG_LABEL, "label given away", "what more images would buy")


@dataclass(frozen=True)
class Finding:
    """A finding about an image.

    Attributes:
        kind: One of ``KINDS``.
        number: The image, in the order of the inspection.
        score: How sure it is, 0..1; of two findings of one kind, the surer one has the higher score. For a
            wrong label, its probability.
        suggestion: The action that is suggested; empty = a person must look.
        other: The image that it is a copy of; None for other kinds.
    """

    kind: str
    number: int
    score: float
    suggestion: str = ""
    other: int | None = None


def relabel(label: str) -> str:
    """Returns the action that gives an image another label."""
    return RELABEL + label


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Returns the findings by kind, those of a kind by falling score."""
    return sorted(findings, key=lambda finding: (KINDS.index(finding.kind), -finding.score, finding.number))


def findings_csv(inspection: Inspection, findings: Sequence[Finding]) -> str:
    """Returns the table of decisions; the column of the actions is empty.

    Args:
        inspection: The images.
        findings: In the order of the rows.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # The last column is never empty: Excel leaves out empty cells at the end of rows.
    writer.writerow((PATH, "finding", "score", "suggestion", ACTION, LABEL, "copy_of", "split"))
    for finding in findings:
        image = inspection.images[finding.number]
        copy_of = "" if finding.other is None else inspection.images[finding.other].path
        label = inspection.label_of(finding.number)
        cells = (finding.kind, f"{finding.score:.3f}", finding.suggestion, "", label, copy_of, image.split)
        writer.writerow((image.path, *cells))
    return text.getvalue()
