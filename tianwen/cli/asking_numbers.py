"""The numbers of `eval ask` as a person reads them: percents with one digit behind the point, the others with as many
as they are good for.

Post: 8802
"""

from __future__ import annotations

from typing import Any

PERCENTS = ("em", "f1", "score", "subject_accuracy", "predicate_accuracy", "answered", "em_answered")


def numbers_for_people(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `evaluate_ask`, each as its text; what each threshold would give is a line."""
    shown: dict[str, Any] = dict(numbers)
    shown |= {name: _percent(numbers[name]) for name in PERCENTS}
    shown["in_knowledge_base"] = _percent(100 * numbers["in_knowledge_base"])
    shown["calibration_error"] = f"{numbers['calibration_error']:.3f}"
    shown["questions_per_second"] = f"{numbers['questions_per_second']:.1f}"
    shown["model_calls_per_question"] = f"{numbers['model_calls_per_question']:.1f}"
    shown["thresholds"] = [
        f"{one['threshold']:.2f}: {_percent(one['answered']):>6} answered, {_percent(one['em']):>6} of them right"
        for one in numbers["thresholds"]
    ]
    return shown


def _percent(number: float) -> str:
    return f"{number:.1f}%"
