"""EAT-base on one 16 s clip, float32, two threads: against plain attention, and against a bare matrix product.

    python benchmarks/encoder.py

Targets: 1.25 times the plain reference, and 0.9 of the rate of a (801 x 768) . (768 x 3072) product.
"""

from __future__ import annotations

import json
from statistics import median

import torch
from reference import interleaved, plain_encoder

from nearfar.encoders.eat import EATConfig, build_encoder

THREADS, FRAMES, ROUNDS = 2, 1600, 11
PRODUCTS = 40
"""Matrix products per turn, so that a turn of either lasts about as long."""


def encoder_flops(config: EATConfig, frames: int) -> int:
    """Floating-point operations of the matrix products alone: patches, linear layers and attention."""
    patches = frames // config.patch_size * config.bands
    tokens, dim, hidden = patches + 1, config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    linear = 2 * tokens * dim * (3 * dim + dim + 2 * hidden)
    attention = 2 * 2 * tokens * tokens * dim
    return config.depth * (linear + attention) + 2 * patches * config.patch_size**2 * dim


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(THREADS)
    encoder = build_encoder("base").eval()
    fbank = torch.randn(1, 1, FRAMES, 128)
    left, right = torch.randn(801, 768), torch.randn(768, 3072)
    difference = (encoder(fbank) - plain_encoder(encoder, fbank)).abs().max().item()
    assert difference < 1e-4, f"the reference differs by {difference}"
    seconds = interleaved(
        {
            "product": lambda: [left @ right for _ in range(PRODUCTS)],
            "nearfar": lambda: encoder(fbank),
            "plain": lambda: plain_encoder(encoder, fbank),
        },
        ROUNDS,
    )
    encoder_rate = [encoder_flops(encoder.config, FRAMES) / s for s in seconds["nearfar"]]
    product_rate = [2 * 801 * 768 * 3072 * PRODUCTS / s for s in seconds["product"]]
    speedup = median(p / n for p, n in zip(seconds["plain"], seconds["nearfar"], strict=True))
    fraction = median(e / p for e, p in zip(encoder_rate, product_rate, strict=True))
    print(f"plain attention   {median(seconds['plain']):6.3f} s")
    print(f"nearfar           {median(seconds['nearfar']):6.3f} s, {speedup:.2f} times as fast (target 1.25)")
    print(f"matrix product    {median(product_rate) / 1e9:6.1f} GFLOP/s")
    print(f"nearfar           {median(encoder_rate) / 1e9:6.1f} GFLOP/s, {fraction:.3f} of it (target 0.9)")
    result = {
        "seconds_plain": round(median(seconds["plain"]), 4),
        "seconds_nearfar": round(median(seconds["nearfar"]), 4),
        "speedup": round(speedup, 3),
        "gflops_product": round(median(product_rate) / 1e9, 1),
        "gflops_nearfar": round(median(encoder_rate) / 1e9, 1),
        "fraction_of_product": round(fraction, 3),
        "best_fraction_of_product": round(max(encoder_rate) / max(product_rate), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
