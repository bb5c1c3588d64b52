"""docs/methods/ says what the code says."""

import runpy

from ssd_bench.run.plan import PACKAGE

ROOT = PACKAGE.parent


def test_the_pages_are_what_the_code_says():
    made = runpy.run_path(str(ROOT / "scripts/method_pages.py"))["pages"]()
    kept = {path.name: path.read_text() for path in (ROOT / "docs/methods").glob("*.md")}
    assert kept == made, "python scripts/method_pages.py writes them again"
