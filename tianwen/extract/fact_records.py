"""Labelled facts given as strings, without offsets: DuIE's and CMeIE's lines, WebNLG's and NYT's triple lists.

Post: 8888

    duie     {"text": "…", "spo_list": [{"subject": "…", "subject_type": "…", "predicate": "…",
              "object": "…" or {"@value": "…", "inWork": "…"}, "object_type": likewise}, …]}
    triples  {"text": "…", "triple_list": [["subject", "predicate", "object"], …]}

Which mentions are meant is a matter of policy, see `mentions`. A further role of DuIE 2 ("inWork") becomes a fact about
the object: (the role sung, "演唱/inWork", the work), so that it stays with the value it belongs to.
"""

from __future__ import annotations

from tianwen.extract.annotation import Annotation
from tianwen.extract.labelled_files import Record
from tianwen.extract.reading import LabelledText, Reading, listed, text_of
from tianwen.extract.schema import VALUE, slot_predicate


def duie(record: Record, reading: Reading) -> Annotation:
    """One line of DuIE 1, DuIE 2 or CMeIE."""
    labels = LabelledText(text_of(record), reading)
    for item in listed(record, "spo_list"):
        if not isinstance(item, dict) or not {"subject", "predicate", "object"} <= item.keys():
            reading.drop("broken-label", item)
            continue
        _fact_with_slots(item, labels)
    return labels.annotation()


def triples(record: Record, reading: Reading) -> Annotation:
    """One element of a triple list, in its full or its starred (last word) form."""
    labels = LabelledText(text_of(record), reading)
    for item in listed(record, "triple_list"):
        if not isinstance(item, list) or len(item) != 3:
            reading.drop("broken-label", item)
            continue
        subject, predicate, value = item
        labels.fact((subject, ""), predicate, (value, ""))
    return labels.annotation()


def _fact_with_slots(item: Record, labels: LabelledText) -> None:
    values = item["object"] if isinstance(item["object"], dict) else {VALUE: item["object"]}
    given = item.get("object_type", "")
    types = given if isinstance(given, dict) else {VALUE: given}
    if VALUE not in values:
        labels.reading.drop("broken-label", item)
        return
    subject = item["subject"], _type(item.get("subject_type"))
    value = values[VALUE], _type(types.get(VALUE))
    labels.fact(subject, item["predicate"], value)
    for slot, words in values.items():
        if slot != VALUE and words:  # empty roles are only placeholders
            labels.fact(value, slot_predicate(str(item["predicate"]), slot), (words, _type(types.get(slot))))


def _type(value: object) -> str:
    return value if isinstance(value, str) else ""
