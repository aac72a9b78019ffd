"""What a run tells: a log that can be read again after any end, and a bar at a terminal only."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tianwen.training import FitSettings, FromFunction, fit
from tianwen.training.progress import JsonLog


def run(folder: Path, **options: object) -> None:
    model = nn.Linear(2, 1)

    def loss_fn(m: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        values = {"tokens": 50, "size": float(x[0, 0])}
        return m(x).square().mean(), values | ({"odd": 7.0} if x[0, 0] % 2 else {})

    fit(
        model,
        loss_fn,
        FromFunction(lambda index, rank, world: torch.full((1, 2), float(index))),
        optimiser=torch.optim.SGD(model.parameters(), lr=0.01),
        settings=FitSettings(**({"steps": 7, "log_every": 3} | options)),
        folder=folder,
        evaluate=lambda m: {"f1": 0.5},
    )


def test_the_log_is_one_object_a_line_with_everything_in_it(tmp_path: Path):
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 7, 7]
    assert list(lines[0]) == ["step", "loss", "lr", "grad_norm", "tokens_per_second", "size", "odd", "seconds"]
    assert lines[0]["size"] == 1.0  # the mean of 0, 1, 2
    assert lines[0]["odd"] == 7.0  # the mean over the batches that told it
    assert lines[0]["tokens_per_second"] > 50
    assert lines[3]["evaluation"] == {"f1": 0.5}


def test_lines_of_steps_to_be_done_again_and_half_a_line_are_removed(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 5, "loss": 1.0}\n{"step": 15, "loss": 0.5}\n{"step": 20, "lo')
    log = JsonLog(path, step=10)
    log.line({"step": 15, "loss": float("nan")})
    log.close()
    assert path.read_text() == '{"step": 5, "loss": 1.0}\n{"step": 15, "loss": null}\n'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_only_at_a_terminal_and_only_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run(tmp_path / "a")
    assert capsys.readouterr() == ("", "")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    run(tmp_path / "b", quiet=True)
    assert screen.getvalue() == ""
    run(tmp_path / "c")
    assert "7/7" in screen.getvalue()
    assert "f1 0.5" in screen.getvalue()
    assert capsys.readouterr().out == ""
