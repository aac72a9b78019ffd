"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from tianwen.counting import count
from tianwen.diffusion.picture_folder import FolderReport
from tianwen.extract.data_check import check_data
from tianwen.extract.found import CapReport
from tianwen.extract.reading_report import Report
from tianwen.extract.schema import Schema


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 facts"), (1, "1 fact"), (2, "2 facts"), (-1, "-1 facts"), (1_000, "1,000 facts")]
)
def test_one_is_singular_and_thousands_have_commas(number, said):
    assert count(number, "fact") == said


def test_a_noun_may_have_a_plural_of_its_own():
    assert [count(n, "entity", "entities") for n in (1, 2)] == ["1 entity", "2 entities"]


def test_reports_of_one_thing_are_singular():
    report = Report(texts=1, skipped=1, dropped=1)
    assert report.summary() == "1 text read; 1 text and 1 label left out."
    assert check_data([], Schema(), report=Report()).table().startswith("0 texts")
    assert "1 mention, 1 fact and the events of 1 type." in CapReport(1, 1, 1, 1, 1).summary()
    assert FolderReport(1, labels={"a": 1}).sentences()[0] == "1 picture with 1 label"
