"""Pictures from rows: which there are, whoever the method is, and what they show."""

from dataclasses import asdict

import matplotlib
import pytest
import torch
from made_rows import row, summary_of

from ssd_bench.core.about import About
from ssd_bench.report.derive import derived_metrics
from ssd_bench.report.figures import style
from ssd_bench.report.pictures import draw, pictures, save
from ssd_bench.report.summary import summarise
from ssd_bench.report.svg import STYLE
from ssd_bench.store.artefacts import Store


def test_any_numeric_setting_with_three_values_is_a_sweep(tmp_path, caplog):
    rows = [row("retrain", 0, 50)]
    columns = {"touched": asdict(About("percent", heading="touched %"))}
    for alpha in (0, 1.0, 100):
        for kind in ("a", "b"):
            settings = {"alpha": alpha, "kind": kind, "fast": True}
            rows.append(row("lfssd", 0, 50 + alpha / 10, settings=settings))
            rows.append(row("mine", 0, 50, settings=settings, columns=columns, details={"touched": 2 * alpha}))
    drawn = dict(pictures(summary_of(rows), tmp_path))
    assert {name for name in drawn if "sweep" in name} == {"lfssd-sweep_alpha", "mine-sweep_alpha"}
    plain, own = drawn["lfssd-sweep_alpha"], drawn["mine-sweep_alpha"]
    assert [axes.get_ylabel() for axes in plain.axes] == ["retain D'_r %", "forget D'_f %"]
    assert [axes.get_ylabel() for axes in own.axes][2:] == ["touched %", "retain D'_r %"]
    assert own.axes[0].get_legend_handles_labels()[1][:2] == ["kind=a", "kind=b"]
    assert "lfssd: its own pictures are left out" in caplog.text  # its class is nowhere


def test_shares_of_tensors_are_drawn_for_any_method_that_counts_them(tmp_path):
    kept = Store(tmp_path).put("original", {}, {"a.weight": torch.zeros(4, 5), "b.bias": torch.zeros(8)}, {}, 0)
    made = {"artefacts": {"original": str(kept.path)}}
    counts = {"per_tensor": {"a.weight": 5, "b.bias": 8}}
    rows = [row("mine", 0, 50, details={"per_tensor": {"a.weight": 0, "b.bias": 0}}, **made)]
    rows += [row("mine", 1, 50, details=counts, **made), row("other", 0, 50, **made)]
    drawn = {name: figure for name, figure in pictures(summary_of(rows), tmp_path) if "per_tensor" in name}
    [axes] = drawn.pop("mine-per_tensor").axes
    assert [bar.get_height() for bar in axes.patches] == [25, 100]
    assert "seed 1" in axes.get_title(loc="left")
    assert not drawn


def test_two_tasks_with_long_names_do_not_share_a_file(tmp_path):
    rows = [row(method, 0, 50, task={"target": "x" * 200 + end}) for end in "ab" for method in ("retrain", "mine")]
    paths = draw(summarise(rows, derived_metrics(rows)), tmp_path, tmp_path / "pictures")
    assert len(set(paths)) == len(paths) > 1


def test_many_methods_have_each_a_style_of_its_own():
    summary = summary_of([row("retrain", 0, 50), *(row(f"m{i}", 0, 50) for i in range(26))])
    assert len({style(summary, line) for line in summary.methods}) == 26


@pytest.mark.parametrize("methods", [3, 24])
def test_the_legend_is_below_the_title_and_inside_the_picture(tmp_path, methods):
    summary = summary_of([row("retrain", 0, 50), *(row(f"m{i}", 0, 50) for i in range(methods))])
    with matplotlib.rc_context(STYLE):
        [figure, *_] = (figure for _, figure in pictures(summary, tmp_path) if figure.legends)
        save(figure, "a title", tmp_path / "picture.png")
    [legend], title = figure.legends, figure._suptitle
    shown = legend.get_window_extent()
    assert shown.y0 >= 0
    assert shown.y1 <= title.get_window_extent().y0
    assert shown.x1 <= figure.bbox.x1


def test_a_method_brings_its_own_pictures(tmp_path, monkeypatch):
    code = """
def figure():
    from matplotlib.figure import Figure
    return Figure()

class Mine:
    @staticmethod
    def pictures(rows, read):
        assert read(rows[0], "original") is None
        return {f"layers of {len(rows)}": figure()}
"""
    (tmp_path / "brings_pictures.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    target = {"method": {"_target_": "brings_pictures.Mine"}}
    rows = [row("retrain", 0, 50), *(row("mine", seed, 50, config=target) for seed in (0, 1))]
    assert "mine-layers of 2" in dict(pictures(summary_of(rows), tmp_path))
