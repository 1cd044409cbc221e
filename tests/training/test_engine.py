"""The training loop's parts (learning rate, weight decay, precision), and the loop on a small task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nearfar.checkpoint import CHECKPOINT_FILE, Identity, finished_steps
from nearfar.config import Training, load_recipe
from nearfar.encoders import ENCODERS
from nearfar.encoders.eat import build_encoder
from nearfar.errors import InputError, TrainingError
from nearfar.models import build_model
from nearfar.pretraining.recipe import load_pretrain_recipe
from nearfar.pretraining.run import build_student
from nearfar.training.engine import (
    Step,
    learning_rate,
    make_accelerator,
    parameter_groups,
    persistent_buffers,
    train,
    trainable,
)
from nearfar.training.log import logged_total, read_log


def test_learning_rate_warms_up_and_falls_to_the_final_rate() -> None:
    training = Training(steps=6, warmup_steps=2, learning_rate=1.0, final_learning_rate=0.1)
    # Two steps up; then half a cosine over four steps: 0, 60, 120 and 180 degrees.
    expected = [0.5, 1.0, 1.0, 0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25, 0.1]
    assert [learning_rate(step, training) for step in range(6)] == pytest.approx(expected, abs=1e-12)


def test_the_leaders_learning_rate_is_constant_after_the_warmup() -> None:
    training = load_recipe("w1-lora").training
    rates = [learning_rate(step, training) for step in (0, 2_499, 4_999, 5_000, 20_000, 37_499)]
    assert rates == pytest.approx([2e-8, 5e-5, 1e-4, 1e-4, 1e-4, 1e-4])


def test_learning_rate_without_warmup_starts_at_the_maximum() -> None:
    training = Training(steps=3, warmup_steps=0, learning_rate=2.0, final_learning_rate=0.0)
    assert [learning_rate(step, training) for step in range(3)] == pytest.approx([2.0, 1.0, 0.0], abs=1e-12)


# --- weight decay -----------------------------------------------------------------------------------------------


def decaying(network: nn.Module) -> set[str]:
    """Names of the parameters that decay; the two groups must hold every trainable parameter once, in order."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, 0.05)
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    found = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
    for group in found:
        assert group == [name for name in trainable(network) if name in group]
    assert sorted(found[0] + found[1]) == sorted(trainable(network))
    return set(found[0])


def matrices(network: nn.Module) -> set[str]:
    """Names of the trainable parameters with more than one axis of more than one value."""
    return {name for name, parameter in trainable(network).items() if parameter.squeeze().dim() > 1}


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_all_matrices_of_a_fine_tuned_network_decay_and_nothing_else(adaptation: str) -> None:
    recipe = load_recipe("tiny-fusion").with_changes(**{"training.adaptation": adaptation})
    network = build_model(recipe, 5)
    assert decaying(network) == matrices(network) != set()


def test_all_matrices_of_a_pre_trained_network_decay_and_nothing_else() -> None:
    student = build_student(load_pretrain_recipe("ssl-tiny"), build_encoder("tiny"))
    assert decaying(student) == matrices(student) != set()


@pytest.mark.parametrize(("adaptation", "rank", "classes"), [("lora", 1, 3), ("full", 4, 1), ("lora", 1, 1)])
def test_rank_and_number_of_classes_do_not_change_what_decays(adaptation: str, rank: int, classes: int) -> None:
    recipe = load_recipe("tiny-fusion").with_changes(**{"training.adaptation": adaptation, "lora.rank": rank})
    network = build_model(recipe, classes)
    assert decaying(network) == decaying(build_model(recipe.with_changes(**{"lora.rank": 4}), 3))
    assert decaying(network) > matrices(network), "parameters of one row or column decay, too"


def test_norms_biases_and_named_parameters_are_exempt() -> None:
    class Owner(nn.Module):
        no_weight_decay = frozenset({"extra_tokens"})

        def __init__(self) -> None:
            super().__init__()
            self.extra_tokens = nn.Parameter(torch.zeros(1, 2, 3))
            self.scale = nn.Parameter(torch.zeros(3))
            self.layer, self.norm = nn.Linear(3, 1), nn.LayerNorm((2, 3))
            self.batch_norm, self.frozen = nn.BatchNorm1d(3), nn.Linear(2, 2).requires_grad_(False)

    assert decaying(Owner()) == {"scale", "layer.weight"}


def test_cls_and_learned_positions_of_encoders_do_not_decay() -> None:
    for family, exempt in (("eat", {"extra_tokens"}), ("dasheng", {"time_pos_embed", "init_bn.1.weight"})):
        encoder = ENCODERS[family].load("random:tiny:0", None)
        names = {name for name, _ in encoder.named_parameters()}
        assert exempt < names
        assert not exempt & decaying(encoder)
        assert {"blocks.0.attn.qkv.weight", "blocks.3.mlp.fc2.weight"} < decaying(encoder)


def test_persistent_buffers_leave_out_derived_ones() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    network.register_buffer("table", torch.zeros(3), persistent=False)
    assert persistent_buffers(network).keys() == {"0.running_mean", "0.running_var", "0.num_batches_tracked"}


# --- precision and processes ------------------------------------------------------------------------------------


def test_auto_precision_is_bf16_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    precisions = []

    def fake(**options: object) -> Accelerator:
        precisions.append(options["mixed_precision"])
        return Accelerator()

    monkeypatch.setattr("accelerate.Accelerator", fake)
    for precision in ("bf16", "fp32", "auto"):
        make_accelerator(Training(precision=precision))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    make_accelerator(Training(precision="auto"))
    make_accelerator(Training(precision="fp32"))
    assert precisions == ["bf16", "no", "no", "bf16", "no"]


def test_batch_must_divide_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 3))
    with pytest.raises(InputError, match=r"training\.batch_size: found 16 samples for 3 processes.*multiple"):
        make_accelerator(Training(batch_size=16))


# --- the loop on a small task -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    values: Tensor
    files: tuple[str, ...]

    def part(self, rows: slice) -> Numbers:
        return Numbers(self.values[rows], self.files[rows])


@dataclass(frozen=True)
class Record:
    step: int
    loss: float
    norm: float


@dataclass(frozen=True)
class Line:
    """The slope of a line, with random numbers as dropout uses them and a state outside the module."""

    module: nn.Linear = field(default_factory=lambda: nn.Linear(1, 1, bias=False))
    buffers: Mapping[str, Tensor] = field(default_factory=lambda: {"sum": torch.zeros(1)})
    seed: int = 0
    spoilt_row: int | None = None

    def batch(self, step: int, first: int, last: int) -> Numbers:
        values = torch.arange(first, last)[:, None] + step / 7
        if self.spoilt_row is not None and step == 1:
            values[self.spoilt_row] = float("nan")
        return Numbers(values, tuple(f"{row}.wav" for row in range(first, last)))

    def rate(self, step: int) -> float:
        return 0.1 / (step + 1)

    def loss(self, module: nn.Module, part: Numbers, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (module(part.values) - 3 * part.values + torch.rand(())).square().sum() / rows
        return loss, {"loss": loss, "one": torch.tensor(len(part.files) / rows)}

    def after_step(self, step: int) -> None:
        self.buffers["sum"].add_(self.module.weight.detach()[0])

    def record(self, step: Step) -> Record:
        assert step.means["one"] == pytest.approx(1.0)
        assert 0 <= step.wait_seconds <= step.seconds
        return Record(step.step, step.means["loss"], step.gradient_norm)


IDENTITY = Identity("settings", "data")


def fit(folder: Path, task: Line | None = None, steps: int = 5, **options: object) -> Line:
    torch.manual_seed(1)
    task = task or Line()
    settings = Training(steps=steps, batch_size=6, micro_batch_size=4, checkpoint_every=2, precision="fp32")
    optimizer = torch.optim.AdamW(task.module.parameters())
    train(task, settings, make_accelerator(settings), optimizer, folder, IDENTITY, **options)  # type: ignore[arg-type]
    return task


class StoppedError(Exception):
    pass


def test_a_stopped_training_resumes_with_buffers_random_numbers_and_log(tmp_path: Path) -> None:
    def stop(record: Record) -> None:
        if record.step == 3:
            raise StoppedError

    whole = fit(tmp_path / "whole")
    with pytest.raises(StoppedError):
        fit(tmp_path / "cut", on_step=stop)
    assert finished_steps(tmp_path / "cut", IDENTITY) == 2
    counted: list[tuple[int, int]] = []
    resumed = fit(tmp_path / "cut", progress=lambda done, total: counted.append((done, total)))
    assert counted == [(3, 5), (4, 5), (5, 5)]
    assert torch.equal(whole.module.weight, resumed.module.weight)
    assert torch.equal(whole.buffers["sum"], resumed.buffers["sum"])
    assert whole.buffers["sum"] != 0
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [0, 1, 2, 3, 4]


def test_a_damaged_line_of_the_log_costs_its_step_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(record: Record) -> None:
        if record.step == 3:
            raise StoppedError

    whole = fit(tmp_path / "whole")
    with pytest.raises(StoppedError):
        fit(tmp_path / "cut", on_step=stop)
    log = tmp_path / "cut" / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"\x85" + lines[0].replace(b'"step": 0', b'"st\xe9p" 0') + b"".join(lines[1:]))
    resumed = fit(tmp_path / "cut")
    assert torch.equal(whole.module.weight, resumed.module.weight)
    assert [record["step"] for record in read_log(log)] == [1, 2, 3, 4]
    assert str(log) in caplog.text
    assert logged_total(tmp_path / "cut", "step") == 10


@pytest.mark.parametrize("at_end", [True, False])
def test_a_checkpoint_at_the_end_is_optional(at_end: bool, tmp_path: Path) -> None:
    fit(tmp_path, steps=4, checkpoint_at_end=at_end)
    assert finished_steps(tmp_path, IDENTITY) == (4 if at_end else 2)


def test_the_global_random_state_is_left_as_it_was(tmp_path: Path) -> None:
    task = Line()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit(tmp_path, task)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_names_step_and_files_of_the_part(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan\. The batch holds 4\.wav, 5\.wav\. Look"):
        fit(tmp_path, Line(spoilt_row=5))
    assert not (tmp_path / CHECKPOINT_FILE).exists()
