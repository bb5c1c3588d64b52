"""What SECURITY.md promises: nothing foreign is executed, nothing leaves the output folder, no network unasked."""

import io
import pickle
import re
import socket
import tarfile
import urllib.request
from pathlib import Path

import pytest
from conftest import SHORT

from ssd_bench.cli import report as report_cli
from ssd_bench.run.identity import Identity, row_path

HOSTILE = ("../../../evil", "/etc/passwd", "..", "", "a/b", "a\\b", "a\0b", "$(touch evil)", "; rm x", "é💥", "x" * 500)


@pytest.fixture
def offline(monkeypatch):
    """Every attempt to connect is noted and refused."""
    tried = []

    def refuse(self, address):
        if self.family != socket.AF_UNIX:
            tried.append(address)
            raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **_: tried.append(a) or refuse(socket.socket(), a))
    return tried


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_the_output_folder(tmp_path, name):
    class Plan:
        names = {"method": name}  # noqa: RUF012

    task = dict.fromkeys(("data", "model", "scenario", "target", "seed"), name) | {"n_forget": 1, "placebo": False}
    path = row_path(tmp_path / "out", Plan, Identity({}, None, None, {}, {}, {}, {}, task))
    assert path.resolve().is_relative_to((tmp_path / "out").resolve())
    assert path.relative_to(tmp_path / "out").parts[3:] == ("metrics.json",)
    path.parent.mkdir(parents=True)
    path.write_text("{}")


@pytest.mark.parametrize("name", HOSTILE[:2] + HOSTILE[4:9])
def test_hostile_targets_are_refused_and_reach_no_shell(command, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    quoted = '"' + name.replace("\\", "\\\\") + '"'
    ended = command(*SHORT, f"scenario.target={quoted}", "out=runs")
    assert ended.code == 2
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


class Trap:
    """A pickle that, when it is read, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_foreign_pickle_in_the_place_of_the_data_is_not_read(command, tmp_path):
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    ended = command("data=cifar10", f"data.root={tmp_path / 'data'}", f"out={tmp_path / 'runs'}", "model.width=4")
    assert ended.code == 2
    assert "checksums differ" in ended.err
    assert not (tmp_path / "sprung").exists()


def test_a_foreign_archive_is_not_extracted(command, tmp_path, monkeypatch):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in ("../evil", "/tmp/ssd-bench-evil", "cifar-10-batches-py/data_batch_1"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"evil"))

    class Response(io.BytesIO):
        length = len(archive.getvalue())
        url = "https://www.cs.toronto.edu/x"

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Response(archive.getvalue()))
    root = tmp_path / "data"
    ended = command("data=cifar10", f"data.root={root}", f"out={tmp_path / 'runs'}", "model.width=4")
    assert ended.code == 2
    assert "could not be downloaded" in ended.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not Path("/tmp/ssd-bench-evil").exists()


def test_no_network_but_the_download_of_the_data(command, tmp_path, offline, capfd):
    assert command("-m", *SHORT, "method=original,retrain,ssd", f"out={tmp_path / 'runs'}").code == 0
    for form in ("csv", "html", "latex"):
        with pytest.raises(SystemExit) as ended:
            report_cli.main([str(tmp_path / "runs"), "--format", form, "-o", str(tmp_path / f"page.{form}")])
        assert not ended.value.code
    no = command("data=cifar10", f"data.root={tmp_path / 'none'}", "data.download=false", f"out={tmp_path / 'runs'}")
    assert no.code == 2
    assert "data.download=true" in no.err
    assert offline == []
    asked = command("data=cifar10", f"data.root={tmp_path / 'none'}", f"out={tmp_path / 'runs'}")
    assert asked.code == 2
    assert offline, "this is how a download would have shown"


def test_the_page_asks_for_nothing_from_elsewhere(command, tmp_path):
    command(*SHORT, "method=original", f"out={tmp_path / 'runs'}")
    with pytest.raises(SystemExit):
        report_cli.main([str(tmp_path / "runs"), "--format", "html", "-o", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"""src=|@import|href=.?http|url\((?!#)""", page)
