"""EAT-base on one 16 s clip, float32: against plain attention, and against a bare matrix product.

    python benchmarks/encoder.py

Targets: 1.25 times the plain reference, and 0.95 of the best rate of a (801 x 768) . (768 x 3072) product, by
torch.mm or by oneDNN, which nearfar.encoders.linear uses. With one thread, seconds are of processor time, which
other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch
from reference import interleaved, plain_encoder

from nearfar.encoders.eat import build_encoder, encoder_flops
from nearfar.encoders.linear import onednn_product

FRAMES = 1600
PRODUCTS = 40
"""Matrix products per turn, so that a turn of either lasts about as long."""


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = build_encoder("base").eval()
    fbank = torch.randn(1, 1, FRAMES, 128)
    left, right = torch.randn(801, 768), torch.randn(768, 3072)
    rows = right.T.contiguous()
    difference = (encoder(fbank) - plain_encoder(encoder, fbank)).abs().max().item()
    assert difference < 1e-4, f"the reference differs by {difference}"
    seconds = interleaved(
        {
            "mm": lambda: [left @ right for _ in range(PRODUCTS)],
            "onednn": lambda: [onednn_product(left, rows) for _ in range(PRODUCTS)],
            "nearfar": lambda: encoder(fbank),
            "plain": lambda: plain_encoder(encoder, fbank),
        },
        arguments.rounds,
        time.process_time if arguments.threads == 1 else time.perf_counter,
    )
    encoder_rate = [encoder_flops(encoder.config, FRAMES) / s for s in seconds["nearfar"]]
    rates = {name: [2 * 801 * 768 * 3072 * PRODUCTS / s for s in seconds[name]] for name in ("mm", "onednn")}
    product, product_rate = max(rates.items(), key=lambda item: median(item[1]))
    speedup = median(p / n for p, n in zip(seconds["plain"], seconds["nearfar"], strict=True))
    fraction = median(e / p for e, p in zip(encoder_rate, product_rate, strict=True))
    print(f"plain attention   {median(seconds['plain']):6.3f} s")
    print(f"nearfar           {median(seconds['nearfar']):6.3f} s, {speedup:.2f} times as fast (target 1.25)")
    for name, found in rates.items():
        print(f"{name:17} {median(found) / 1e9:6.1f} GFLOP/s")
    print(
        f"nearfar           {median(encoder_rate) / 1e9:6.1f} GFLOP/s, {fraction:.3f} of {product} (target 0.95)"
    )
    result = {
        "seconds_plain": round(median(seconds["plain"]), 4),
        "seconds_nearfar": round(median(seconds["nearfar"]), 4),
        "speedup": round(speedup, 3),
        **{f"gflops_{name}": round(median(found) / 1e9, 1) for name, found in rates.items()},
        "gflops_nearfar": round(median(encoder_rate) / 1e9, 1),
        "fraction_of_product": round(fraction, 3),
        "best_fraction_of_product": round(max(encoder_rate) / max(product_rate), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
