"""The paired comparison as a reader sees it."""

import io
import json

from rich.console import Console

from nearfar.evaluation.comparison import comparison_to_json, comparison_to_markdown, comparison_to_rich
from nearfar.evaluation.uncertainty import Comparison, Difference

COMPARISON = Comparison(
    machines={"fan": Difference(0.02, -0.01, 0.05, 0.9), "pump": Difference(-0.04, -0.08, 0.0, 0.025)},
    overall=Difference(-0.0125, -0.03, 0.01, 0.2),
    without={"fan": Difference(-0.04, -0.08, 0.0, 0.025), "pump": Difference(0.02, -0.01, 0.05, 0.9)},
    resamples=10_000,
    level=0.95,
)


def test_markdown_gives_points():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in comparison_to_markdown(COMPARISON, "eat-near", "ae-mse").splitlines()
        if line.startswith("|")
    ]
    assert rows[0] == [
        "eat-near minus ae-mse",
        "difference",
        "95 % interval",
        "probability that eat-near is better",
    ]
    assert rows[2:] == [
        ["fan", "+2.00", "[-1.00, +5.00]", "0.900"],
        ["pump", "-4.00", "[-8.00, +0.00]", "0.025"],
        ["All (official score)", "-1.25", "[-3.00, +1.00]", "0.200"],
        ["All without fan", "-4.00", "[-8.00, +0.00]", "0.025"],
        ["All without pump", "+2.00", "[-1.00, +5.00]", "0.900"],
    ]


def test_terminal_shows_the_same_figures():
    console = Console(width=110, file=io.StringIO())
    console.print(comparison_to_rich(COMPARISON, "eat-near", "ae-mse"))
    shown = console.file.getvalue()
    for text in ("eat-near minus ae-mse", "[-3.00, +1.00]", "All without pump", "10,000 resamples"):
        assert text in shown


def test_json_gives_fractions():
    tree = json.loads(comparison_to_json(COMPARISON, "eat-near", "ae-mse"))
    assert tree["all"] == {"difference": -0.0125, "interval": [-0.03, 0.01], "a_better": 0.2}
    assert list(tree["machines"]) == list(tree["without"]) == ["fan", "pump"]
    assert (tree["a"], tree["b"], tree["resamples"], tree["level"]) == ("eat-near", "ae-mse", 10_000, 0.95)
