"""Renaming of recipe keys of earlier versions.

Recipe files of earlier versions, and the recipes inside model folders and detectors, stay readable.
"""

from __future__ import annotations

from typing import Any

MOVED = {
    ("training", "channels"): ("training", "views"),
    ("scoring", "channels"): ("scoring", "views"),
    ("detection", "hop_seconds"): ("audio", "hop_seconds"),
    ("detection", "calibration"): ("calibration", "method"),
    ("detection", "held_out"): ("calibration", "held_out"),
    ("decision", "threshold"): ("threshold", "rule"),
    ("detection", "threshold"): ("threshold", "rule"),
    ("detection", "false_alarm_rate"): ("threshold", "false_alarm_rate"),
    ("detection", "domains"): ("threshold", "domains"),
}
"""(table, key) of earlier versions, and the present one; of two that became one, the later is used."""

_RUN_DEFAULTS = {"threshold": "gamma", "quantile": 0.9}
_DETECTOR_DEFAULTS = {"threshold": "conformal", "false_alarm_rate": 0.05}


def modernised(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe's tree with present keys; an old key replaces the present one if the tree has both."""
    old = {"method", "decision", "detection"} & tree.keys()
    tables = ("training", "scoring", "decision", "detection")
    if not old and not any("channels" in _table(tree, name) for name in tables):
        return tree
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    if {"decision", "detection"} <= out.keys():
        # Files written by earlier versions hold both tables; values equal to the old defaults are removed.
        for table, defaults in (("decision", _RUN_DEFAULTS), ("detection", _DETECTOR_DEFAULTS)):
            if all(_table(out, table).get(key) == value for key, value in defaults.items()):
                out[table] = {key: value for key, value in _table(out, table).items() if key not in defaults}
    quantile = _table(out, "decision").pop("quantile", None)
    if isinstance(quantile, int | float):
        out.setdefault("threshold", {})["false_alarm_rate"] = round(1.0 - quantile, 12)
    for (table, key), (new_table, new_key) in MOVED.items():
        if key in _table(out, table):
            out.setdefault(new_table, {})[new_key] = out[table].pop(key)
    for table in ("decision", "detection"):
        if table in out and not out[table]:
            del out[table]
    method = out.pop("method", None)
    if method == "autoencoder":
        out.setdefault("scoring", {})["backend"] = "autoencoder"
        out.setdefault("features", {})["source"] = "slaney"
        out.setdefault("training", {})["adaptation"] = "none"
    elif method not in (None, "nearest-normal"):
        out["method"] = method
    return out


def _table(tree: dict[str, Any], name: str) -> dict[str, Any]:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}
