"""The health of instruments: which problems become findings, when, and how grave they are."""

from __future__ import annotations

from nearfar.watch.health import SEVERITY, Finding, Health, WindowHealth, overall

NORMAL_DB = {"near": (-30.0, -20.0), "far": (-35.0, -25.0)}
LEVELS_DB = {"near": -25.0, "far": -30.0}


def after(health: WindowHealth, problems: dict[str, str], count: int = 1, **more: object) -> WindowHealth:
    for _ in range(count):
        health = health.after(problems, {**LEVELS_DB, **more}, 10.0, NORMAL_DB)  # type: ignore[arg-type]
    return health


def checks(health: WindowHealth) -> list[str]:
    return [finding.check for finding in health.findings()]


def test_one_bad_window_is_no_finding() -> None:
    assert checks(after(WindowHealth(), {"clipped": "peaks are cut"}, 2)) == []


def test_three_of_five_are_one_until_none_of_five_is_left() -> None:
    health = after(after(WindowHealth(), {"clipped": "peaks are cut"}, 2), {})
    health = after(health, {"clipped": "peaks are cut again"})
    assert health.findings() == (Finding("clipped", "peaks are cut again"),)
    assert checks(after(health, {}, 4)) == ["clipped"]
    assert checks(after(health, {}, 5)) == []


def test_problems_that_do_not_matter_to_health_are_left_out() -> None:
    assert checks(after(WindowHealth(), {"length": "longer"}, 9)) == []


def test_a_microphone_that_slowly_loses_level_is_reported_and_one_that_does_not_is_not() -> None:
    steady, falling = WindowHealth(), WindowHealth()
    for window in range(3 * 8640):
        steady = steady.after({}, {**LEVELS_DB, "near": -29.0}, 10.0, NORMAL_DB)
        falling = falling.after({}, {**LEVELS_DB, "near": -25.0 - 4.0 * window / 8640}, 10.0, NORMAL_DB)
    assert checks(steady) == []
    (finding,) = falling.findings()
    assert finding.check == "drifting"
    assert "near channel" in finding.message
    assert "below all normal recordings" in finding.message


def test_drift_waits_for_six_hours_of_sound() -> None:
    early = after(WindowHealth(), {}, 6 * 360 - 1, near=-40.0)
    assert checks(early) == []
    assert checks(after(early, {}, near=-40.0)) == ["drifting"]


def test_the_mean_level_is_that_of_all_windows_at_first() -> None:
    health = WindowHealth()
    for level in (-20.0, -22.0, -30.0, -40.0):
        health = health.after({}, {"near": level}, 10.0, NORMAL_DB)
    assert abs(health.mean_db["near"] + 28.0) < 1e-9


def test_a_dead_microphone_does_not_drift() -> None:
    assert checks(after(WindowHealth(), {"dead": "no sound"}, 3000, near=-90.0)) == ["dead"]


def test_the_gravest_finding_is_the_health() -> None:
    words = {check: overall([Finding(check, "")]) for check in SEVERITY}
    assert words["dead"] is words["swapped"] is words["missing"] is Health.FAILURE
    assert words["service"] is Health.FUNCTION_CHECK
    assert words["clipped"] is words["late"] is Health.OUT_OF_SPECIFICATION
    assert words["drifting"] is Health.MAINTENANCE_REQUIRED
    assert overall([]) is Health.GOOD
    assert overall([Finding("drifting", ""), Finding("dead", ""), Finding("service", "")]) is Health.FAILURE
    assert overall([Finding("service", ""), Finding("clipped", "")]) is Health.FUNCTION_CHECK


def test_health_is_kept_as_json() -> None:
    health = after(WindowHealth(), {"clipped": "peaks are cut"}, 4)
    assert WindowHealth.model_validate(health.model_dump(mode="json")) == health
