"""The simulator's physics against hand-computed frequencies, distances and ratios."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import hilbert

from nearfar.data.simulate.background import NOISES
from nearfar.data.simulate.factory import mix
from nearfar.data.simulate.machines import MACHINES, Fault, Operation
from nearfar.data.simulate.rooms import WAYPOINTS, build_room, convolve_moving
from nearfar.data.simulate.signals import (
    convolve,
    harmonics,
    impacts,
    noise,
    passing_times,
    ring,
    rms,
    shaft_angle,
    stream,
)

RATE_HZ = 16_000
SAMPLES = 4 * RATE_HZ


def sound(machine: str, operation: Operation, fault: Fault | None = None) -> np.ndarray:
    return MACHINES[machine].sound(operation, fault, 1.0, stream(5, machine), SAMPLES)[0]


def power(signal: np.ndarray) -> np.ndarray:
    """Power spectrum in bins of 0.25 Hz."""
    return np.abs(np.fft.rfft(signal * np.hanning(len(signal)))) ** 2


def strength(spectrum: np.ndarray, frequency_hz: float, width: float = 0.015) -> float:
    """The largest power within ``width`` (as a fraction) of a frequency, for speeds differ a little."""
    low, high = (int(frequency_hz * (1 + side * width) * 4) for side in (-1, 1))
    return float(spectrum[low : high + 2].max())


def envelope_spectrum(signal: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Power spectrum of the envelope in a band, the usual tool against bearing faults."""
    spectrum = np.fft.rfft(signal)
    frequency = np.fft.rfftfreq(len(signal), 1 / RATE_HZ)
    spectrum[(frequency < low_hz) | (frequency > high_hz)] = 0
    envelope = np.abs(hilbert(np.fft.irfft(spectrum, len(signal))))
    return power(envelope - envelope.mean())


def test_fan_sings_at_blades_times_speed_and_imbalance_at_shaft_rate():
    operation = Operation(speed=18.0, load=0.4)
    healthy = power(sound("fan", operation))
    assert strength(healthy, 7 * 18.0) > 20 * np.median(healthy[4 * 100 : 4 * 160])
    unbalanced = power(sound("fan", operation, Fault("imbalance", 1.0)))
    assert strength(unbalanced, 18.0) > 4 * strength(healthy, 18.0)
    broken = power(sound("fan", operation, Fault("broken_blade", 1.0)))
    assert strength(broken, 10 * 18.0) > 4 * strength(healthy, 10 * 18.0)  # between blade-pass harmonics


def test_gear_mesh_is_at_teeth_times_speed_and_a_chipped_tooth_knocks_once_a_turn():
    operation = Operation(speed=14.0, load=0.8)
    healthy = sound("gearbox", operation)
    assert strength(power(healthy), 21 * 14.0) > 100 * np.median(power(healthy)[4 * 200 : 4 * 400])
    chipped = sound("gearbox", operation, Fault("chipped_tooth", 1.0))
    before, after = (strength(envelope_spectrum(one, 1200, 4000), 2 * 14.0) for one in (healthy, chipped))
    assert after > 10 * before


@pytest.mark.parametrize(("fault", "order"), [("outer_race", 3.6), ("inner_race", 5.4)])
def test_bearing_defects_show_at_their_ball_pass_frequency(fault, order):
    """Nine balls, ball over pitch diameter 0.2: BPFO = 4.5 · 0.8 = 3.6 and BPFI = 4.5 · 1.2 = 5.4 a turn."""
    shaft_hz = 25.0 * (1 - 0.01 - 0.04 * 0.5)  # slip
    operation = Operation(speed=25.0, load=0.5)
    faulty = envelope_spectrum(sound("bearing", operation, Fault(fault, 1.0)), 2000, 5000)
    healthy = envelope_spectrum(sound("bearing", operation), 2000, 5000)
    expected = strength(faulty, order * shaft_hz)
    assert expected > 20 * strength(healthy, order * shaft_hz)
    elsewhere = [strength(faulty, wrong * shaft_hz) for wrong in (2.5, 3.1, 4.9, 5.9)]
    assert expected > 3 * max(elsewhere)
    if fault == "inner_race":  # sidebands at shaft rate, for the defect passes the loaded zone once a turn
        assert strength(faulty, 4.4 * shaft_hz) > 20 * strength(healthy, 4.4 * shaft_hz)


def test_slider_thuds_once_a_stroke_and_valve_clicks_twice_a_switching():
    slides = sound("slider", Operation(speed=1.5, load=0.4))
    thuds = np.abs(convolve(slides, np.ones(8) / 8))  # low-pass: friction is higher up
    loud = np.flatnonzero(thuds > 0.4 * thuds.max())
    assert 1 + np.count_nonzero(np.diff(loud) > 0.3 * RATE_HZ) in (5, 6, 7)  # 4 s at 1.5 strokes a second
    valve = sound("valve", Operation(speed=2.0, load=0.4))
    clicks = np.flatnonzero(np.abs(valve) > 0.3 * np.abs(valve).max())
    assert 1 + np.count_nonzero(np.diff(clicks) > 0.05 * RATE_HZ) in (15, 16, 17)


FAULTS = [(machine, fault) for machine, kind in MACHINES.items() for fault in kind.faults]


@pytest.mark.parametrize(("machine", "fault"), FAULTS)
def test_a_fault_grows_with_severity_in_the_region_of_the_truth_table(machine, fault):
    """With equal generators the difference to the healthy machine is what the fault does, and nothing else."""
    kind = MACHINES[machine]
    for operation in (kind.source[0], kind.target[-1]):
        healthy, nothing = kind.sound(operation, None, 1.0, stream(3, machine), SAMPLES)
        assert nothing is None
        sizes = []
        for severity in (0.2, 0.6, 1.0):
            faulty, trace = kind.sound(operation, Fault(fault, severity), 1.0, stream(3, machine), SAMPLES)
            difference = faulty - healthy
            sizes.append(rms(difference) / rms(healthy))
        assert sizes == sorted(sizes)
        assert sizes[0] > 0.02
        assert sizes[-1] < 1.5
        spectrum = np.abs(np.fft.rfft(difference)) ** 2
        frequency = np.fft.rfftfreq(SAMPLES, 1 / RATE_HZ)
        in_band = (frequency >= trace.low_hz) & (frequency <= trace.high_hz)
        assert spectrum[in_band].sum() > 0.75 * spectrum.sum()
        if trace.intervals_s:
            time = np.arange(SAMPLES) / RATE_HZ
            inside = np.any([(time >= start) & (time < end) for start, end in trace.intervals_s], axis=0)
            assert inside.mean() < 0.8
            assert np.sum(difference[inside] ** 2) > 0.9 * np.sum(difference**2)


@pytest.mark.parametrize("name", NOISES)
def test_background_noise_is_finite_and_there_all_the_time(name):
    signal = NOISES[name](stream(1, name), SAMPLES)
    assert signal.shape == (SAMPLES,)
    assert np.isfinite(signal).all()
    tenths = rms(signal) / np.array([rms(part) for part in np.split(signal, 8)])
    assert tenths.max() < 10


def test_harmonics_follow_the_angle_and_stop_below_nyquist():
    rng = stream(1)
    angle = 1000.0 * np.arange(RATE_HZ) / RATE_HZ
    tone = harmonics(angle, np.ones(12), rng)
    spectrum = np.abs(np.fft.rfft(tone)) / (RATE_HZ / 2)
    assert np.flatnonzero(spectrum > 0.5).tolist() == [1000 * order for order in range(1, 8)]
    assert spectrum[1000] == pytest.approx(1.0, rel=1e-6)


def test_noise_lies_in_its_band():
    spectrum = power(noise(stream(1), SAMPLES, (1000.0, 2000.0, 4.0, 1.0)))
    in_band = spectrum[4 * 1000 : 4 * 2000].mean()
    assert spectrum[4 * 4000 : 4 * 4200].mean() == pytest.approx(in_band * 2.0**-8, rel=0.5)  # -24 dB an octave
    assert rms(noise(stream(1), 1000, (100.0, 200.0, 1.0, 1.0))) == pytest.approx(1.0)


def test_passing_times_are_evenly_spaced_in_angle_and_slip_adds_up():
    angle = shaft_angle(stream(1), SAMPLES, 20.0, unsteadiness=0.0)
    steady = passing_times(angle, 3.0, stream(2))
    assert np.diff(steady[steady >= 0]) == pytest.approx(1 / 60, rel=1e-6)
    assert len(steady[steady >= 0]) in (239, 240, 241)
    loose = passing_times(angle, 3.0, stream(2), slip=0.1)
    assert np.std(np.diff(loose[loose >= 0])) == pytest.approx(0.1 / 60, rel=0.2)


def test_an_impact_rings_at_its_time_and_frequency():
    modes = ((500.0, 0.01, 1.0),)
    signal = impacts(np.array([0.10003125, -1.0, 9.0]), np.array([2.0, 1.0, 1.0]), modes, RATE_HZ)
    time = np.arange(RATE_HZ) / RATE_HZ
    expected = np.zeros(RATE_HZ)
    for first in (1600, 1601):  # half way between two samples: the mean of two rings
        after = time - first / RATE_HZ
        ringing = np.exp(-np.clip(after, 0, None) / 0.01) * np.sin(2 * np.pi * 500 * after)
        expected += np.where(after >= 0, ringing, 0.0)
    assert signal == pytest.approx(expected, abs=2e-3)  # the ring is cut after seven time constants
    assert ring(np.zeros(100), modes) == pytest.approx(0.0)


def test_room_puts_the_direct_sound_at_the_distance_of_the_microphones():
    """The fractional-delay filter of pyroomacoustics is centred on 40 samples."""
    for domain in ("source", "target"):
        room = build_room(0, "fan", domain)
        assert 0.4 <= room.near_m <= 0.6
        assert 2.5 <= room.far_m <= 4.0
        for response, metres in zip(room.machine, (room.near_m, room.far_m), strict=True):
            arrival = 40 + metres / 343.0 * RATE_HZ
            onset = np.flatnonzero(np.abs(response) > 0.3 * np.abs(response[: int(arrival) + 5]).max())[0]
            assert onset == pytest.approx(arrival, abs=2)
        assert 0.1 < room.far_over_near < 0.6


def test_a_source_at_rest_is_carried_by_the_response_of_its_waypoint():
    room = build_room(0, "fan", "source")
    dry = stream(1).standard_normal(3000)
    for waypoint in (0, 2):
        position = waypoint / (WAYPOINTS - 1)
        images = convolve_moving(room, dry, 1, position, position)
        for channel in (0, 1):
            naive = np.convolve(dry, room.paths[1, waypoint, channel])[:3000]
            assert images[channel] == pytest.approx(naive, abs=1e-9)
    assert convolve(dry, room.machine)[1] == pytest.approx(np.convolve(dry, room.machine[1])[:3000], abs=1e-9)


def test_a_moving_source_starts_at_one_end_and_arrives_at_the_other():
    room = build_room(0, "fan", "source")
    dry = stream(1).standard_normal(SAMPLES)
    moving = convolve_moving(room, dry, 0, 0.0, 1.0)
    ends = [convolve_moving(room, dry, 0, position, position) for position in (0.0, 1.0)]
    edge = SAMPLES // 50
    early, late = slice(0, edge), slice(SAMPLES - edge, SAMPLES)
    for window, near_end, far_end in ((early, *ends), (late, *ends[::-1])):
        assert rms((moving - near_end)[:, window]) < 0.3 * rms(near_end[:, window])
        assert rms((moving - far_end)[:, window]) > 0.5 * rms(far_end[:, window])


def test_mixing_sets_the_ratio_at_the_near_microphone_and_hides_the_machine_level():
    time = np.arange(RATE_HZ) / RATE_HZ
    machine = np.stack([3.0 * np.sin(2 * np.pi * 500 * time), 8.0 * np.sin(2 * np.pi * 500 * time)])
    noise_images = np.stack([0.2 * np.sin(2 * np.pi * 900 * time), 0.5 * np.sin(2 * np.pi * 900 * time)])
    mixed = mix(machine, noise_images, far_over_near=0.25, snr_db=6.0)
    amplitude = np.abs(np.fft.rfft(mixed)) / (RATE_HZ / 2)
    assert 20 * np.log10(amplitude[0, 500] / amplitude[0, 900]) == pytest.approx(6.0)
    assert amplitude[1, 500] / amplitude[0, 500] == pytest.approx(0.25)
    assert amplitude[1, 900] / amplitude[0, 900] == pytest.approx(2.5)
    assert mix(10 * machine, noise_images, 0.25, 6.0) == pytest.approx(mixed)


def test_streams_depend_on_every_part_of_the_key():
    def draw(*key: int | str) -> float:
        return float(stream(*key).random())

    assert draw(1, "fan", 2) == draw(1, "fan", 2)
    assert (
        len({draw(1, "fan", 2), draw(1, "fan", 3), draw(2, "fan", 2), draw(1, "fa", "n", 2), draw("1", "fan", 2)})
        == 5
    )
