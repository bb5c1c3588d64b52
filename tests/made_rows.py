"""Finished runs made up for tests of what follows from rows alone."""

import json
from dataclasses import asdict

from ssd_bench.core.about import About
from ssd_bench.metrics.accuracy import Accuracy
from ssd_bench.report.derive import derived_metrics
from ssd_bench.report.summary import summarise

ABOUT = {name: asdict(about) for name, about in Accuracy.about.items()}
ABOUT |= {"mia": asdict(About("percent", "retrained", "", ("forget_train",), 20, "MIA %", 2, "main"))}
GONE = {"metric": {"own": {"_target_": "nowhere.Metric"}}}  # classes that cannot be imported
NAMES = ("retain_acc", "forget_acc", "test_acc", "retain_train_acc", "forget_train_acc", "mia")


def row(method, seed, level, seed_unlearn=None, **more):
    """A finished run whose accuracies are all `level`; `more` replaces what it holds, section by section."""
    task = {
        "data": "toy", "model": "net", "scenario": "full_class", "target": "8", "target_index": 8, "placebo": False,
        "n_train": 500, "n_forget": 50, "n_test": 100, "seed": seed, "seed_unlearn": seed_unlearn, "seed_forget": None,
        "fidelity": "corrected", "forget_sha256": "f", "data_sha256": "d", "recipe": "r", "evaluation": "e",
        "original": f"original {seed}", "reference": f"reference {seed}",
    }  # fmt: skip
    metrics = {name: float(level) for name in NAMES}
    made = {
        "schema": 1, "layout": 2, "status": "done", "reason": None, "task": task, "method": method, "settings": {},
        "tuned": {},
        "config": {"train": {}, "precision": "float32", "method": {"_target_": "nowhere.Method"}} | GONE,
        "metrics": metrics, "original_metrics": dict.fromkeys(NAMES, 80.0) | {"mia_auc": 0.7},
        "about": ABOUT, "columns": {}, "details": {}, "artefacts": {}, "memory": None, "classes": ["7", "8"],
        "samples": dict.fromkeys(("retain", "forget", "test", "retain_train", "forget_train"), 100),
        "times": {"method_s": 1.0, "online_s": 1.0, "shared_s": {}},
        "env": {"device": "cpu (x)", "finished": "2026-01-01", "threads": 1, "torch": "2", "git": "g", "started": ""},
        "path": f"{method}-{seed}-{seed_unlearn}-{json.dumps(more, default=str, sort_keys=True)}",
    }  # fmt: skip
    return made | {key: made[key] | value if isinstance(value, dict) else value for key, value in more.items()}


def summary_of(rows):
    [summary] = summarise(rows, derived_metrics(rows))
    return summary
