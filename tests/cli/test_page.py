"""The HTML page: what it says, that it escapes what it shows, and how it looks in a real browser without a network."""

import re
import shutil
from copy import deepcopy
from dataclasses import replace
from html import escape, unescape

import made_rows
import pytest
from conftest import SHORT

from ssd_bench.report.derive import derived, derived_metrics
from ssd_bench.report.figures import style
from ssd_bench.report.page import page, short_names
from ssd_bench.report.summary import ORIGINAL, summarise
from ssd_bench.report.verdict import verdict
from ssd_bench.store.rows import read_rows


@pytest.fixture
def rows(command, kept):
    sweep = ("-m", *SHORT, "method=original,retrain,ssd,teacher", "seed=0,1")
    out = kept(lambda folder: command(*sweep, f"out={folder}"))
    return read_rows(out), out


def summaries(rows):
    found, folder = rows
    return summarise(found, derived(found, folder))


def test_the_verdict_names_a_winner_only_if_it_is_nearer_than_doing_nothing(rows):
    [summary] = summaries(rows)
    nearest = min(summary.methods, key=lambda line: line.mean("average_gap"))
    gap, before = (round(line.mean("average_gap"), 1) for line in (nearest, summary.line(ORIGINAL)))
    said = verdict(summary)
    if gap < before:
        assert said.startswith(f"Nearest to the retrained model: {nearest.label}, {gap:.1f} points")
        assert "2 training seeds" in said
    else:
        assert said.startswith("No method ends nearer")
        assert nearest.label not in said
    one = [row for row in rows[0] if row["task"]["seed"] == 0]
    assert "nothing can be said about how certain" in verdict(summaries((one, rows[1]))[0])
    alone = [row for row in rows[0] if row["method"] != "retrain"]
    assert "cannot be said" in verdict(summaries((alone, rows[1]))[0])


def test_nothing_is_fetched_and_everything_is_escaped(rows):
    found = deepcopy(rows[0])
    for row in found:
        row["task"]["target"] = "<img src=x onerror=alert(1)>"
        if row["method"] == "teacher":
            row["method"] = "<script>alert(2)</script>"
    text = page(summaries((found, rows[1])))
    assert "<img src=x" not in text
    assert "<script>alert(2)" not in text
    assert "&lt;script&gt;alert(2)" in text
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.?https?:", text)


def test_tasks_that_share_a_short_name_are_told_apart(rows):
    [summary] = summaries(rows)
    other = replace(summary, rows=[deepcopy(row) for row in summary.rows])
    other.rows[0]["task"]["model"] = "resnet18"
    assert short_names([summary]) == ["digits full_class 8"]
    assert short_names([summary, other]) == ["digits full_class 8 resnet18_slim", "digits full_class 8 resnet18"]
    again = replace(summary, apart=", other data")
    assert short_names([summary, again]) == [summary.title, again.title]


def test_every_column_of_a_table_is_explained_once(rows):
    """As its metric describes it: unit, best value, where it is valid, what it rests on."""
    text = page(summaries(rows))
    described = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    heads = re.findall(r"<th>(.*?)</th>", text)
    assert set(described) == set(heads) - {"method"}
    assert text.count("<dt>") == len(described)
    assert unescape(described[escape("forget D'_f %")]) == (
        "percent; best: that of the retrained model; rests on D'_f (at least 20 images)"
    )
    assert "valid: where mia_auc is above 0.5" in described["MIA %"]
    assert described["time s"] == "seconds; best: 0; valid: between methods on one machine"


def test_the_same_rows_are_the_same_page(rows):
    assert page(summaries(rows)) == page(summaries(rows))


def test_marks_of_a_method_are_known_by_its_name_and_say_its_numbers(rows):
    [svg, *_] = re.findall(r"<svg.*?</svg>", page(summaries(rows)), flags=re.S)
    ssd = re.findall(r'<g data-line="ssd">\s*<title>(.*?)</title>', svg)
    [summary] = summaries(rows)
    assert ssd
    assert f"retain D'_r % {summary.line('ssd').mean('retain_acc'):.2f} ±" in ssd[0]
    assert not re.search(r'<g [^>]*\bid="', svg)
    ids = re.findall(r'\bid="([^"]+)"', page(summaries(rows)))
    assert len(ids) == len(set(ids))  # or one picture would use what is drawn in another


def test_many_methods_on_many_tasks_are_a_small_page():
    """Of five requests one after the other, which have the most pictures."""
    named, rows = [f"method_{i}" for i in range(25)], []
    for i, name in enumerate(["retrain", *named]):
        for seed in (0, 1, 2):
            after = [{"metrics": {"forgotten_acc": 7.0 * k + i + seed, "kept_acc": 90.0 - k - seed}} for k in range(5)]
            more = {"times": {"online_s": 1.0 + i}, "metrics_by_request": after, "task": {"requests": 5}}
            rows.append(made_rows.row(name, seed, 50 + i % 7 + seed, **more))
    size = len(page(summarise(rows, derived_metrics(rows))))
    assert 12 * size < 3e6


@pytest.mark.parametrize("label", ["$\\frac{$", "a\x01b", "]]><script>alert(1)</script>"])
def test_any_label_is_drawn_as_it_is(label):
    rows = [made_rows.row(method, seed, 50 + seed) for method in ("retrain", label) for seed in (0, 1)]
    text = page(summarise(rows, derived_metrics(rows)))
    shown = escape(label.replace("\x01", "\ufffd"), quote=False)
    assert text.count(f">{shown}</text>") == 3  # in two legends and beside a bar
    assert "<script>alert" not in text


def made_page(folder):
    """A page of methods whose numbers as text are in another order than as numbers, with a control, in a file."""
    levels = {"retrain": 50, "ssd": 9, "teacher": 70, "finetune": 100, "masks": 20}
    rows = []
    for seed in (0, 1):
        for i, (method, level) in enumerate(levels.items()):
            steps = [{"metrics": dict.fromkeys((*made_rows.NAMES, "kept_acc"), level + k + seed)} for k in (0, 1)]
            task = {"scenario": "sequence", "requests": 2}
            more = {"task": task, "metrics_by_request": steps, "times": {"online_s": 1.0 + i + seed}}
            rows.append({**made_rows.row(method, seed, level + seed / 2, **more), "control": method == "masks"})
    [summary] = summarise(rows, derived_metrics(rows))
    path = folder / "page.html"
    path.write_text(page([summary]))
    return path, summary


@pytest.fixture(scope="module")
def browse():
    """Opens a page in a browser without a network, as wide as asked."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver on this machine: the page was not looked at")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    browser.execute_cdp_cmd("Network.enable", {})
    slow = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", slow)

    def opened(path, width, scripts=True):
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        return browser

    yield opened
    browser.quit()


def column(browser, place):
    """The texts of a column of the first table, body by body."""
    cells = f"[...b.rows].filter(r => r.getClientRects().length).map(r => r.cells[{place}].textContent)"
    return browser.execute_script(f"return [...document.querySelector('table').tBodies].map(b => {cells})")


@pytest.mark.parametrize("width", [1300, 800, 360])
def test_pictures_stay_in_their_frames(browse, tmp_path, width):
    browser = browse(made_page(tmp_path)[0], width)
    places = browser.execute_script(
        "return [...document.querySelectorAll('figure')].map(f => [f, f.querySelector('svg')].map(e => {"
        "const r = e.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]}))"
    )
    assert len(places) == 5  # of them two of the requests
    for (left, right, top, bottom), svg in places:
        assert 0 <= left < right <= width
        assert left - 1 <= svg[0] < svg[1] <= right + 1
        assert top - 1 <= svg[2] < svg[3] <= bottom + 1
    outside = (  # text that a picture cuts off
        "return [...document.querySelectorAll('svg')].flatMap(s => { const o = s.getBoundingClientRect();"
        "return [...s.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();"
        "return r.left < o.left - 1 || r.right > o.right + 1 || r.top < o.top - 1 || r.bottom > o.bottom + 1 })"
        ".map(t => t.textContent)})"
    )
    assert browser.execute_script(outside) == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")  # no sideways scroll
    assert browser.get_log("browser") == []


def test_tables_sort_by_value_and_controls_stay_below(browse, tmp_path):
    browser = browse(made_page(tmp_path)[0], 800)
    head = "document.querySelector('table th:nth-child(2)').click()"
    before = column(browser, 0)
    assert len(before) == 2
    for descending in (False, True):
        browser.execute_script(head)
        competing = [float(text.split()[0]) for text in column(browser, 1)[0]]
        assert competing == sorted(competing, reverse=descending) != sorted(competing, key=str, reverse=descending)
        assert [sorted(names) for names in column(browser, 0)] == [sorted(names) for names in before]
    browser.execute_script("document.querySelector('table th').click()")
    assert column(browser, 0)[0] == sorted(before[0])


def test_methods_are_filtered_in_tables_and_pictures(browse, tmp_path):
    path, summary = made_page(tmp_path)
    browser = browse(path, 800)
    shown = "return [...document.querySelectorAll('[data-line]')].filter(e => e.getClientRects().length)"
    count = len(browser.execute_script(shown))
    browser.find_element("id", "methods").send_keys("ssd")
    assert set(browser.execute_script(f"{shown}.map(e => e.dataset.line)")) == {"ssd"}
    left = "return [...document.querySelectorAll('svg [style*=\"{}\"]')].filter(e => e.getClientRects().length).length"
    for line in summary.methods:  # what is drawn of a method has its colour, legends too
        colour = style(summary, line)[0].lower()
        assert bool(browser.execute_script(left.format(colour))) == (line.label == "ssd")
    browser.find_element("id", "methods").send_keys("\b\b\b")
    assert len(browser.execute_script(shown)) == count
    assert browser.get_log("browser") == []


def test_without_scripts_all_is_shown(browse, tmp_path):
    path, summary = made_page(tmp_path)
    browser = browse(path, 360, scripts=False)
    assert not browser.find_element("id", "methods").is_displayed()
    rows = browser.find_elements("css selector", "table:first-of-type tbody tr")
    assert {row.get_attribute("data-line") for row in rows if row.is_displayed()} == {x.label for x in summary.lines}
    assert all(svg.is_displayed() for svg in browser.find_elements("css selector", "figure svg"))
