"""The examples of the documentation, run from top to bottom."""

import re
import runpy

import pytest

from ssd_bench.run.plan import PACKAGE

DOCS = PACKAGE.parent / "docs"
EXAMPLES = re.findall(r"```python\n(.*?)```", (DOCS / "library.md").read_text(), re.DOTALL)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The names that an example of docs/library.md leaves behind. It must not leave a file."""

    def run(index):
        monkeypatch.chdir(tmp_path)
        script = tmp_path.parent / f"{tmp_path.name}.py"
        script.write_text(EXAMPLES[index])
        left = runpy.run_path(str(script))
        assert not list(tmp_path.iterdir())
        return left

    return run


def test_the_first_example_forgets_the_eights_and_keeps_the_rest(example, capsys):
    left = example(0)
    assert left["scores"]["forget_train_acc"] < 10
    assert left["scores"]["retain_acc"] > 85
    assert "of the weights dampened" in capsys.readouterr().out


def test_the_second_example_compares_methods_with_the_reference(example):
    table = example(1)["table"]
    assert list(table) == ["original", "finetune", "amnesiac", "ssd"]
    assert all(row["average_gap"] > 0 and row["test_acc"] > 60 for row in table.values())


def test_the_notebook_runs():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(DOCS / "own_method.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    kinds = [output["output_type"] for cell in notebook.cells for output in cell.get("outputs", [])]
    assert kinds == ["execute_result", "display_data"]  # a table and a picture, and no warning
