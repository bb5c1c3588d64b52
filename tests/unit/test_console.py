"""Progress: what is said, how often, and what is said about long work."""

import logging

import pytest
import torch

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


def test_what_is_counted_is_told_now_and_then(time, caplog):
    caplog.set_level(logging.INFO)
    with console.counting("decoding", 100) as more:
        for _ in range(8):
            time[0] += 10
            more(9)
    assert [r.getMessage() for r in caplog.records] == ["decoding: 36 of 100", "decoding: 72 of 100"]


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (65.4, "1:05"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_clock(seconds, text):
    assert console.clock(seconds) == text
