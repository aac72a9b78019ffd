"""Facts, entities and events out of text: GPLinker, its loss and training, the readers and the protocols.

Post: 8888

The names below are imported on first use, so that reading and writing annotations needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tianwen.lazy import lazy_names

if TYPE_CHECKING:
    from tianwen.extract.annotation import Annotation as Annotation
    from tianwen.extract.annotation_files import read_annotations as read_annotations
    from tianwen.extract.data_check import check_data as check_data
    from tianwen.extract.loss import multilabel_loss as multilabel_loss
    from tianwen.extract.reading_report import Report as Report
    from tianwen.extract.schema import Schema as Schema
    from tianwen.extract.schema import infer_schema as infer_schema
    from tianwen.extract.scoring import score as score

_HOME = {
    "Annotation": "tianwen.extract.annotation",
    "Report": "tianwen.extract.reading_report",
    "Schema": "tianwen.extract.schema",
    "check_data": "tianwen.extract.data_check",
    "infer_schema": "tianwen.extract.schema",
    "multilabel_loss": "tianwen.extract.loss",
    "read_annotations": "tianwen.extract.annotation_files",
    "score": "tianwen.extract.scoring",
}

__all__ = [
    "Annotation",
    "Report",
    "Schema",
    "check_data",
    "infer_schema",
    "multilabel_loss",
    "read_annotations",
    "score",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
