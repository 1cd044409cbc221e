"""Every form of weights against the golden tiny encoder, and every kind of file that is none."""

from __future__ import annotations

import json
import math
import pickle
import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import nearfar
from nearfar.encoders import encoder_hash, load_encoder, parameter_count, save_encoder
from nearfar.encoders.eat import EAT, EAT_BASE, EAT_LARGE, FIXED_BY_EAT, SIZES, build_encoder
from nearfar.encoders.hub import PUBLISHED
from nearfar.errors import InputError

IMAGE = "modality_encoders.IMAGE."
TINY_A = {
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "norm_eps": 1e-6,
    "patch_size": 16,
    "stride": 16,
    "mel_bins": 128,
    "max_length": 768,
    "model_variant": "pretrain",
}
FORMS = ["huggingface folder", "fairseq names", "bare names", "pre-trained pt", "fine-tuned pt"]


def bare(fairseq: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """fairseq names to ours, by the table of the specification, without decoder."""
    table = [
        (f"{IMAGE}extra_tokens", "extra_tokens"),
        (f"{IMAGE}local_encoder.proj.", "local_encoder.proj."),
        (f"{IMAGE}fixed_positional_encoder.positions", "fixed_positional_encoder.positions"),
        (f"{IMAGE}context_encoder.norm.", "pre_norm."),
        ("blocks.", "blocks."),
    ]
    return {
        ours + name[len(theirs) :]: tensor
        for name, tensor in fairseq.items()
        for theirs, ours in table
        if name.startswith(theirs)
    }


def write(form: str, folder: Path, fairseq: dict[str, torch.Tensor], head: dict[str, torch.Tensor]) -> Path:
    """The same weights in one of the published forms, with the config.json that tells the number of heads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY_A))
    names = {
        "fairseq names": "w.safetensors",
        "bare names": "b.safetensors",
        "huggingface folder": "model.safetensors",
    }
    path = folder / names.get(form, "model.pt")
    if form == "fairseq names":
        save_file(fairseq, path)
    elif form == "bare names":
        save_file(bare(fairseq), path)
    elif form == "huggingface folder":
        save_file({f"model.{name}": tensor for name, tensor in bare(fairseq).items()}, path, {"format": "pt"})
        path = folder
    elif form == "pre-trained pt":
        teacher = {name: tensor + 1.0 for name, tensor in fairseq.items() if "decoder" not in name}
        state = {
            "args": None,
            "cfg": {"model": {"_name": "data2vec_multi"}},
            "model": {**fairseq, "_ema": teacher},
        }
        torch.save(state, path)
    elif form == "fine-tuned pt":
        encoder = {f"model.{name}": tensor for name, tensor in fairseq.items() if "decoder" not in name}
        torch.save({"args": None, "cfg": {}, "model": {**encoder, **head}, "extra_state": {}}, path)
    return path


@pytest.fixture(scope="module")
def fairseq(golden_arrays) -> dict[str, torch.Tensor]:
    return load_file(golden_arrays / "eat_tiny_A.weights.safetensors")


@pytest.fixture(scope="module")
def outputs(golden_arrays) -> dict[str, torch.Tensor]:
    return load_file(golden_arrays / "eat_tiny_A.safetensors")


@pytest.fixture
def loaded(request, tmp_path, fairseq, outputs) -> EAT:
    """The golden weights, written in the form of the parameter and read back."""
    head = {name.removeprefix("head."): tensor for name, tensor in outputs.items() if name.startswith("head.")}
    return load_encoder(write(request.param, tmp_path / "w", fairseq, head))


@pytest.mark.parametrize("loaded", FORMS, indirect=True)
def test_every_golden_output_through_every_form(loaded, outputs):
    seen: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    loaded.local_encoder.register_forward_hook(keep("patch_embed"))
    loaded.pre_norm.register_forward_hook(lambda module, inputs, output: seen.update(tokens_in=inputs[0]))
    loaded.pre_norm.register_forward_hook(keep("pre_norm_out"))
    loaded.blocks[0].attn.register_forward_hook(keep("block_0_attn_out"))
    for index, block in enumerate(loaded.blocks):
        block.register_forward_hook(keep(f"block_{index}"))
        block.mlp.register_forward_hook(keep(f"ffn_{index}"))
    fbank = outputs["input_fbank"]
    with torch.no_grad():
        features = loaded(fbank)
        seen |= {"features": features, "cls": features[:, 0], "frame": features[:, 1:]}
        seen["mean_frame"] = features[:, 1:].mean(dim=1)
        ours = dict(seen)
        ours["masked_features"] = loaded(fbank, token_keep=outputs["in.token_padding_mask"] == 0)
        ours["short_features"] = loaded(fbank[:, :, : int(outputs["in.short_frames"])])
    for eps, name in ((1e-5, "logits_hf_eps1e-5"), (1e-6, "logits_fairseq_eps1e-6")):
        normed = F.layer_norm(
            ours["cls"], (48,), outputs["head.fc_norm.weight"], outputs["head.fc_norm.bias"], eps
        )
        ours[name] = F.linear(normed, outputs["head.head.weight"], outputs["head.head.bias"])
    expected = {name.removeprefix("out."): value for name, value in outputs.items() if name.startswith("out.")}
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            ours[name], value, atol=2e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("file", ["eat_tiny_A.fairseq_pretrain.pt", "eat_tiny_A.fairseq_finetuned.pt"])
def test_golden_files_hold_the_weights_after_one_gradient_step(golden_arrays, tmp_path, fairseq, file):
    # These two were written after the golden self-supervised step p -= 0.1 * gradient.
    gradients = load_file(golden_arrays / "eat_tiny_A.ssl.safetensors")
    after = {
        name: tensor - 0.1 * gradients.get(f"grad.{name}", torch.zeros(())) for name, tensor in fairseq.items()
    }
    (tmp_path / "config.json").write_text(json.dumps(TINY_A))
    shutil.copyfile(golden_arrays / file, tmp_path / file)
    encoder = load_encoder(tmp_path / file)
    expected = bare(after)
    positions = expected.pop("fixed_positional_encoder.positions")
    assert len(expected) == 41
    state = encoder.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, atol=3e-7, rtol=0)
        assert not torch.equal(tensor, bare(fairseq)[name])
    table = encoder.fixed_positional_encoder.positions[:, : positions.shape[1]]
    torch.testing.assert_close(table, positions, atol=1e-4, rtol=0)


def test_positions_equal_the_published_table(golden_arrays):
    arrays = load_file(golden_arrays / "pos_embed_768.safetensors")
    with torch.device("cpu"):
        table = build_encoder(replace(EAT_BASE, depth=1)).fixed_positional_encoder.positions
    assert table.shape == (1, 6144, 768)
    torch.testing.assert_close(table[0, arrays["rows"]], arrays["values"], atol=1e-4, rtol=0)
    torch.testing.assert_close(table[0].double().sum(0), arrays["sum_per_dim"], atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("config", "published", "parameters"),
    [(EAT_BASE, ["base", "hf_pretrain", "hf_finetune"], 85_254_144), (EAT_LARGE, ["large"], 302_575_616)],
    ids=["base", "large"],
)
def test_names_and_shapes_equal_the_published_ones(golden_arrays, config, published, parameters):
    shapes = json.loads((golden_arrays / "key_shapes.json").read_text())
    with torch.device("meta"):
        encoder = EAT(config)
    assert parameter_count(encoder) == parameters
    ours = {name: list(tensor.shape) for name, tensor in encoder.state_dict().items()}
    ours["fixed_positional_encoder.positions"] = list(encoder.fixed_positional_encoder.positions.shape)
    for form in published:
        theirs = {name.removeprefix("model."): shape for name, shape in shapes[form].items()}
        theirs = {
            name: shape
            for name, shape in theirs.items()
            if not name.startswith((f"{IMAGE}decoder.", "fc_norm.", "head."))
        }
        assert (bare(theirs) if form in ("base", "large") else theirs) == ours


@pytest.mark.slow
def test_saved_base_has_the_published_names_and_size(golden_arrays, tmp_path):
    encoder = build_encoder("base")
    save_encoder(encoder, tmp_path)
    path = tmp_path / "model.safetensors"
    try:
        assert path.stat().st_size == PUBLISHED["worstchan/EAT-base_epoch30_pretrain"].size_bytes == 359_905_840
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        assert shapes == json.loads((golden_arrays / "key_shapes.json").read_text())["hf_pretrain"]
        again = load_encoder(path)  # sizes from config.json
        (tmp_path / "config.json").unlink()
        assert load_encoder(path).config == again.config == EAT_BASE  # sizes from the tensors
    finally:
        path.unlink()
    assert encoder_hash(again) == encoder_hash(encoder)


def test_saving_and_loading_returns_the_same_bits(tmp_path):
    encoder = build_encoder(replace(SIZES["tiny"], num_heads=6, depth=2, mlp_ratio=3.5, max_length=40), seed=5)
    save_encoder(encoder, tmp_path / "new" / "folder")
    save_encoder(encoder, tmp_path / "new" / "folder")  # again, over the first
    again = load_encoder(tmp_path / "new" / "folder")
    assert again.config == encoder.config
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), encoder.parameters(), strict=True))
    assert torch.equal(again.fixed_positional_encoder.positions, encoder.fixed_positional_encoder.positions)
    assert all(p.requires_grad for p in again.parameters())
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def test_config_json_says_what_the_released_one_says(tmp_path):
    save_encoder(build_encoder("tiny"), tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written | {"embed_dim": 768, "depth": 12, "num_heads": 12} == {
        "model_type": "eat",
        "embed_dim": 768,
        "depth": 12,
        "num_heads": 12,
        "patch_size": 16,
        "stride": 16,
        "in_chans": 1,
        "mel_bins": 128,
        "max_length": 768,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "layer_norm_first": False,
        "norm_eps": 1e-6,
        "norm_affine": True,
        "img_size": [1024, 128],
        "model_variant": "pretrain",
        "num_classes": 527,
    }


def test_a_full_disk_keeps_what_was_there(tmp_path):
    first = build_encoder(replace(SIZES["tiny"], depth=1), seed=1)
    save_encoder(first, tmp_path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # the system refuses to write more
    try:
        with pytest.raises(InputError, match=r"cannot be written .*expected a writable folder with \d+ MB free"):
            save_encoder(build_encoder(replace(SIZES["tiny"], depth=1), seed=2), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert encoder_hash(load_encoder(tmp_path)) == encoder_hash(first)
    assert len(list(tmp_path.iterdir())) == 2


def test_half_precision_weights_become_float32(tmp_path, fairseq):
    halves = {name: tensor.half() for name, tensor in bare(fairseq).items() if "positions" not in name}
    (tmp_path / "config.json").write_text(json.dumps(TINY_A))
    save_file(halves, tmp_path / "model.safetensors")
    encoder = load_encoder(tmp_path)
    assert torch.equal(encoder.extra_tokens, halves["extra_tokens"].float())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def position_by_position(rows: int, dim: int) -> torch.Tensor:
    """EAT's table, (1, rows, dim), one sine and cosine at a time."""
    table = np.empty((1, rows, dim), dtype=np.float32)
    for row, half, k in np.ndindex(rows, 2, dim // 4):
        angle = (row // 8 if half else row % 8) / 10_000.0 ** (k / (dim // 4))
        table[0, row, half * dim // 2 + k] = math.sin(angle)
        table[0, row, half * dim // 2 + dim // 4 + k] = math.cos(angle)
    return torch.from_numpy(table)


@pytest.mark.parametrize("rows", [8, 512, 6144, 8000])
def test_positions_of_any_row_count_are_accepted_and_other_values_are_not(tmp_path, fairseq, rows):
    name = f"{IMAGE}fixed_positional_encoder.positions"
    table = position_by_position(rows, 48)
    stored = min(rows, fairseq[name].shape[1])
    torch.testing.assert_close(table[:, :stored], fairseq[name][:, :stored], atol=1e-4, rtol=0)
    if rows > stored:
        table[:, :stored] = fairseq[name]
    path = write("fairseq names", tmp_path, {**fairseq, name: table}, {})
    assert load_encoder(path).fixed_positional_encoder.positions.shape == (1, 6144, 48)
    table[0, 7, 3] += 2e-4
    write("fairseq names", tmp_path, {**fairseq, name: table}, {})
    with pytest.raises(InputError, match="positions other than EAT's sines and cosines"):
        load_encoder(path)


def without(name: str):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model.blocks.1.norm2.bias"), "no blocks.1.norm2.bias"),
        (without("model.extra_tokens"), "no extra_tokens"),
        (lambda t: {**t, "model.blocks.1.ls1.gamma": torch.ones(48)}, "an unknown blocks.1.ls1.gamma"),
        (lambda t: {**t, "model.cls_token": torch.ones(48)}, "an unknown cls_token"),
        (
            lambda t: {**t, "model.blocks.0.attn.qkv.bias": torch.ones(48)},
            r"blocks.0.attn.qkv.bias of shape \(48,\) instead of \(144,\)",
        ),
        (lambda t: {k.replace("blocks.2.", "blocks.3."): v for k, v in t.items()}, "no blocks.2.norm1.weight"),
        (
            lambda t: {**t, "model.extra_tokens": torch.full((1, 1, 48), math.nan)},
            "model.extra_tokens with NaN or infinite values",
        ),
        (
            lambda t: {**t, "model.extra_tokens": torch.ones(1, 1, 48, dtype=torch.int32)},
            "model.extra_tokens of type torch.int32",
        ),
        (lambda t: {**t, "pre_norm.bias": torch.ones(48)}, "pre_norm.bias twice"),
        (lambda t: {"weight": torch.ones(3)}, r"no extra_tokens, .* and \d+ more"),
        (lambda t: {}, "no extra_tokens"),
    ],
)
def test_other_tensors_than_an_encoders_are_named(tmp_path, fairseq, change, message):
    write("huggingface folder", tmp_path, fairseq, {})
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(change(tensors), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        load_encoder(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**TINY_A, "num_heads": 5}, "num_heads 5"),
        ({**TINY_A, "depth": 0}, "depth = 0"),
        ({**TINY_A, "depth": 2.5}, "depth = 2.5; expected a positive whole number"),
        ({**TINY_A, "depth": "3"}, "depth = '3'"),
        ({**TINY_A, "norm_eps": math.inf}, "norm_eps = inf"),
        ({**TINY_A, "stride": 10}, "stride = 10"),
        ({**TINY_A, "layer_norm_first": True}, "layer_norm_first = True"),
        ({key: value for key, value in TINY_A.items() if key != "num_heads"}, "num_heads = None"),
        ({**TINY_A, "depth": 4}, "no blocks.3.norm1.weight"),
        ([], "a JSON list"),
    ],
)
def test_a_config_that_does_not_fit_is_an_error(tmp_path, fairseq, config, message):
    write("huggingface folder", tmp_path, fairseq, {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=re.escape(message)):
        load_encoder(tmp_path)


def test_without_a_config_an_unknown_width_asks_for_one(tmp_path, fairseq):
    path = write("fairseq names", tmp_path, fairseq, {})
    (tmp_path / "config.json").unlink()
    with pytest.raises(
        InputError, match=r'width 48.*Write .*config.json with "embed_dim", "depth" and "num_heads"'
    ):
        load_encoder(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(InputError, match="1 tensors: x"):
        load_encoder(path)


def test_sizes_of_a_known_width_follow_from_the_tensors(tmp_path):
    encoder = build_encoder(replace(SIZES["tiny"], depth=2, mlp_ratio=2.0))
    torch.save(encoder.state_dict(), tmp_path / "bare.pt")
    again = load_encoder(str(tmp_path / "bare.pt"))
    assert again.config == encoder.config
    assert encoder_hash(again) == encoder_hash(encoder)


class Touch:
    """Unpickling this writes a file: the harmless end of what a pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').close()",))


@pytest.mark.parametrize("form", ["torch archive", "plain pickle", "other protocol"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, form):
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Touch(proof)))
    assert proof.exists()  # the trap works
    proof.unlink()
    path = tmp_path / "model.pt"
    state = {"model": {"blocks.0.norm1.weight": torch.ones(3), "payload": Touch(proof)}}
    if form == "torch archive":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps({"model": Touch(proof)}, protocol=2 if form == "plain pickle" else 4))
    with pytest.raises(InputError, match=r"asks for more than tensors .* nothing in it was run") as caught:
        load_encoder(path)
    assert "weights_only" not in str(caught.value)
    assert ("GLOBAL exec" in str(caught.value)) == (form != "other protocol")
    assert not proof.exists()


CONTENTS = {
    "empty": (b"", "an empty file"),
    "web page": (b"\n<!DOCTYPE html><html><title>Sign in</title></html>" * 9, "a web page"),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:8623\nsize 359905840\n",
        "Git LFS pointer",
    ),
    "text": (b"not weights at all, but long enough to be taken for some\n" * 9, r"\d+ bytes that do not read"),
    "truncated": (None, r"\d+ bytes that do not read"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", CONTENTS)
def test_files_that_are_not_weights(tmp_path, fairseq, suffix, content):
    path = write("fairseq names" if suffix == ".safetensors" else "pre-trained pt", tmp_path, fairseq, {})
    data, message = CONTENTS[content]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if data is None else data)
    with pytest.raises(InputError, match=message) as caught:
        load_encoder(path)
    assert caught.value.where == path


def test_a_pickle_without_tensors_or_a_damaged_config(tmp_path, fairseq):
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="a list without named tensors"):
        load_encoder(tmp_path / "list.pt")
    path = write("fairseq names", tmp_path, fairseq, {})
    (tmp_path / "config.json").write_text('{"embed_dim": 48,')
    with pytest.raises(InputError, match=r"config\.json: found .* do not read as a JSON file"):
        load_encoder(path)


def test_paths_that_lead_nowhere(tmp_path):
    for wrong in (tmp_path / "none", str(tmp_path / "none.pt"), "eat-bass", "folder/model.safetensors", "a/b/c"):
        with pytest.raises(InputError, match="no such file or folder"):
            load_encoder(wrong)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"ends in '\.txt'; expected weights: \.safetensors, \.pt"):
        load_encoder(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a folder without config\.json and model\.safetensors"):
        load_encoder(tmp_path / "empty")


def test_short_names_of_published_encoders(tmp_path, monkeypatch):
    save_encoder(load_encoder("random:tiny:1"), tmp_path)
    asked = []
    monkeypatch.setattr("nearfar.encoders.weights.download", lambda name, *_: asked.append(name) or tmp_path)
    load_encoder("eat-base")
    assert asked == ["worstchan/EAT-base_epoch30_pretrain"]


def test_random_starts():
    assert nearfar.load_encoder is load_encoder
    default, zero, one = (load_encoder(f"random:tiny{seed}") for seed in ("", ":0", ":1"))
    assert encoder_hash(default) == encoder_hash(zero) == encoder_hash(build_encoder("tiny", seed=0))
    assert encoder_hash(one) == encoder_hash(build_encoder("tiny", seed=1)) != encoder_hash(zero)
    assert parameter_count(default) <= 6_000_000
    assert not default.training
    for wrong in ("random:huge", "random:", "random:tiny:x", "random:tiny:1:2", "random:tiny:-1"):
        with pytest.raises(
            InputError, match="expected random:SIZE or random:SIZE:SEED with SIZE one of base, large, tiny"
        ):
            load_encoder(wrong)


def test_the_hash_sees_every_value_the_sizes_and_the_number_type():
    encoder = build_encoder(replace(SIZES["tiny"], depth=1))
    hashes = {encoder_hash(encoder), encoder_hash(build_encoder(replace(SIZES["tiny"], depth=1, num_heads=6)))}
    with torch.no_grad():
        encoder.blocks[0].mlp.fc2.bias[-1] = 1e-30
    hashes.add(encoder_hash(encoder))
    hashes.add(encoder_hash(encoder.half()))
    assert len(hashes) == 4


def test_settings_that_eat_fixes_are_those_of_the_encoder():
    block = build_encoder(replace(SIZES["tiny"], depth=1)).blocks[0]
    assert FIXED_BY_EAT["qkv_bias"] == (block.attn.qkv.bias is not None)
    assert FIXED_BY_EAT["norm_affine"] == block.norm1.elementwise_affine


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_folder_in_half_precision_loads_with_its_stored_positions(tmp_path, precision):
    save_encoder(load_encoder("eat-tiny"), tmp_path)
    file = tmp_path / "model.safetensors"
    halves = {name: values.to(precision) for name, values in load_file(file).items()}
    assert any("positions" in name for name in halves)
    save_file(halves, file)
    encoder = load_encoder(tmp_path)
    assert {values.dtype for values in encoder.state_dict().values()} == {torch.float32}
