"""Progress: what is said, how often, and what is said about long work."""

import logging
import sys
from io import StringIO

import pytest
import torch
from rich.console import Console

from ssd_bench.core import console


@pytest.fixture
def time(monkeypatch):
    """A clock that the test turns."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def steps(time, seconds_each, how_many, of):
    seen = torch.tensor([30.0, 12.0])
    with console.Progress("original", steps=of, epochs=4) as progress:
        for _ in range(how_many):
            time[0] += seconds_each
            progress.step(2, 60, seen)


def test_a_line_now_and_then_with_loss_accuracy_and_what_is_left(time, caplog):
    caplog.set_level(logging.INFO)
    steps(time, seconds_each=1.0, how_many=65, of=100)
    assert [r.getMessage() for r in caplog.records] == [
        "original: epoch 2/4, loss 0.500, accuracy 20.0 %, 1:10 left",
        "original: epoch 2/4, loss 0.500, accuracy 20.0 %, 0:40 left",
    ]


def test_more_than_an_hour_is_said_once_with_what_is_cheaper(time, caplog):
    caplog.set_level(logging.INFO)
    steps(time, seconds_each=1.0, how_many=29, of=10_000)
    [line] = [r.getMessage() for r in caplog.records]
    assert line.startswith("original will take about 2:46:20 more")
    assert "train.epochs" in line
    assert "resnet18_slim" in line


def test_what_is_counted_is_told_now_and_then_with_what_is_left(time, caplog):
    caplog.set_level(logging.INFO)
    with console.counting("decoding", 100) as more:
        for n in (0, *[9] * 8):
            time[0] += 10
            more(n)
    assert [r.getMessage() for r in caplog.records] == [
        "decoding: 18 of 100, 2:17 left",
        "decoding: 45 of 100, 1:13 left",
        "decoding: 72 of 100, 0:35 left",
    ]


def test_batches_are_counted_by_what_they_hold(time, caplog):
    caplog.set_level(logging.INFO)
    with console.counted("images", [range(60), range(30), range(10)]) as parts:
        for part in parts:
            time[0] += len(part)
    assert [r.getMessage() for r in caplog.records] == ["images: 60 of 100, 0:40 left", "images: 90 of 100, 0:10 left"]


def test_on_a_terminal_a_bar_comes_once_it_takes_a_while_and_goes_when_it_is_done(time, monkeypatch):
    shown = StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=shown, force_terminal=True, width=80))
    with console.counted("at once", [range(60), range(40)]) as parts:
        for _ in parts:
            time[0] += 0.1
    assert not shown.getvalue()
    with console.Progress("original", steps=2, epochs=1):  # a pass inside a training
        out, error = sys.stdout, None

        def look(batches):
            for _ in batches:
                time[0] += 1.0
                if "long" in shown.getvalue():
                    raise ValueError

        try:
            with console.counted("long", [range(60), range(40)]) as parts:
                look(parts)
        except ValueError as e:
            error = e  # whoever keeps it, as a sweep does, keeps the loop in it, too
        assert sys.stdout is out
    assert error
    assert "long" in shown.getvalue()
    assert shown.getvalue().count("\x1b[?25l") == shown.getvalue().count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (65.4, "1:05"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_clock(seconds, text):
    assert console.clock(seconds) == text
