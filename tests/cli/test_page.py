"""The HTML page: what it says, that it escapes what it shows, and how it looks in a real browser without a network."""

import re
import shutil
from copy import deepcopy

import made_rows
import pytest
from conftest import SHORT

from ssd_bench.report.derive import derived, derived_metrics
from ssd_bench.report.page import page
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


def test_the_same_rows_are_the_same_page(rows):
    assert page(summaries(rows)) == page(summaries(rows))


def test_marks_of_a_method_are_known_by_its_name_and_say_its_numbers(rows):
    [svg, *_] = re.findall(r"<svg.*?</svg>", page(summaries(rows)), flags=re.S)
    ssd = re.findall(r'<g data-line="ssd">\s*<title>(.*?)</title>', svg)
    [summary] = summaries(rows)
    assert ssd
    assert f"retain D'_r % {summary.line('ssd').mean('retain_acc'):.2f} ±" in ssd[0]
    assert not re.search(r'<g [^>]*\bid="', svg)  # names that other pictures have, too


def test_many_methods_on_many_tasks_are_a_small_page():
    named = [f"method_{i}" for i in range(25)]
    rows = [
        made_rows.row(name, seed, 50 + i % 7 + seed, times={"online_s": 1.0 + i})
        for i, name in enumerate(["retrain", *named]) for seed in (0, 1, 2)
    ]  # fmt: skip
    size = len(page(summarise(rows, derived_metrics(rows))))
    assert 12 * size < 3e6


@pytest.mark.parametrize("width", [1300, 800, 360])
def test_a_browser_shows_the_rows_and_has_nothing_to_complain_about(rows, tmp_path, width):
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium and chromedriver on this machine: the page was not looked at")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By

    path = tmp_path / "page.html"
    path.write_text(page(summaries(rows)))
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.execute_cdp_cmd("Network.enable", {})
        slow = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", slow)
        browser.set_window_size(width, 1000)
        browser.get(path.as_uri())
        found = browser.find_elements(By.CSS_SELECTOR, "table tbody td:first-child")
        firsts = [cell.text for cell in found]
        assert firsts[:4] == ["original", "retrain", "ssd", "teacher"]
        frames = browser.find_elements(By.CSS_SELECTOR, "figure")
        assert len(frames) >= 3
        places = [frame.rect for frame in frames]
        assert all(place["x"] >= 0 and place["x"] + place["width"] <= width for place in places)
        inside = "const f = arguments[0].getBoundingClientRect(), s = arguments[0].querySelector('svg')"
        inside += ".getBoundingClientRect(); return s.top >= f.top && s.bottom <= f.bottom + 1 && s.left >= f.left - 1"
        assert all(browser.execute_script(inside, frame) for frame in frames)
        browser.execute_script("document.querySelector('table th:nth-child(2)').click()")
        first = browser.find_elements(By.CSS_SELECTOR, "table:first-of-type tbody:first-of-type td:nth-child(2)")
        numbers = [float(cell.text.split()[0]) for cell in first[:4]]
        assert numbers == sorted(numbers)
        browser.find_element(By.ID, "methods").send_keys("ssd")
        lines = browser.find_elements(By.CSS_SELECTOR, "[data-line]")
        assert {line.get_attribute("data-line") for line in lines if line.is_displayed()} == {"ssd"}
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")  # no sideways scroll
        assert browser.get_log("browser") == []
    finally:
        browser.quit()
