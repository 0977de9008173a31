"""Random maps: time to regenerate those of every preset, and the dense product against what a Hadamard map would allow.

    python scripts/bench/maps.py [--presets seed1095 ...] [--bases hadamard orthogonal] [--device cpu|cuda] [--rows 8192] [--json F]

Legend: T rows of activations, N order of the Hadamard matrix (a power of two here).
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

import numpy as np
import torch

from hybrid.model import random_maps
from hybrid.model.hybrid_lm import PARTS, HybridLM
from hybrid.scoring.report import write_json
from hybrid.settings import presets
from hybrid.settings.config import BASES
from ngram.errors import run_cli
from scripts.bench.common import fastest_s, make_parser

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def regenerate(preset: str, basis: str, workers: int) -> tuple[int, float, float]:
    """(entries, wall seconds, processor seconds) of making every frozen map of a preset in this basis."""
    config = presets.get(preset).model
    model = HybridLM(config, fill_maps=False)
    jobs = [
        (random_maps.derive_seed(config.map_seed, layer, PARTS[name]), fan_out, projection.fan_in)
        for (layer, _), projection in model.projections().items()
        if projection.frozen
        for name, fan_out in zip(projection.names, projection.fan_outs, strict=True)
    ]
    begin, work = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda job: random_maps.map_bits(basis, *job).shape, jobs))
    return sum(fan_out * fan_in for _, fan_out, fan_in in jobs), time.perf_counter() - begin, time.process_time() - work


def butterfly(x_TN: torch.Tensor) -> torch.Tensor:
    """x H for the Sylvester matrix of order N, log₂ N passes of sums and differences."""
    rows, order = x_TN.shape
    half = 1
    while half < order:
        x = x_TN.view(rows, order // (2 * half), 2, half)
        x_TN = torch.stack([x[:, :, 0] + x[:, :, 1], x[:, :, 0] - x[:, :, 1]], dim=2).view(rows, order)
        half *= 2
    return x_TN


def sylvester(order: int, like: torch.Tensor) -> torch.Tensor:
    signs = random_maps.hadamard_signs(order, np.arange(order))
    return torch.from_numpy(np.where(signs, -1.0, 1.0)).to(like)


def two_factors(x_TN: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """x H for H = left ⊗ right: two small dense products instead of one large."""
    x = x_TN.view(len(x_TN), len(left), len(right))
    return torch.matmul(left, torch.matmul(x, right)).view(x_TN.shape)


def unpack_product(x_TN: torch.Tensor, packed_N: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """x M for M stored as one bit an entry: (N, N/8) uint8, unpacked on the fly."""
    bits = (packed_N[:, :, None] >> shifts) & 1
    return x_TN @ (1 - 2 * bits.view(len(packed_N), -1).to(x_TN.dtype))


def milliseconds(task: Callable[[], Any], device: str) -> float:
    """Fewest of five calls after one warm-up, each until the device has finished it."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def finished() -> None:
        task()
        wait()

    finished()
    return 1e3 * fastest_s(finished, 5, time.perf_counter)


def products(order: int, rows: int, device: str) -> dict[str, float]:
    """Milliseconds of x H for each way, after checking that they agree."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x = torch.randn(rows, order, device=device, dtype=dtype)
    dense = sylvester(order, x)
    small = 2 ** ((order.bit_length() - 1) // 2)
    left, right = sylvester(order // small, x), sylvester(small, x)
    packed = torch.from_numpy(np.packbits(dense.float().cpu().numpy() < 0, axis=1, bitorder="little")).to(device)
    shifts = torch.arange(8, device=device, dtype=torch.uint8)
    order_in, order_out = (torch.randperm(order, device=device) for _ in range(2))
    signs_in, signs_out = (dense[i] for i in (3, 5))
    down, up = (torch.randn(shape, device=device, dtype=dtype) for shape in ((order, 64), (64, order)))
    extra = {  # what a frozen map needs besides: random orders and signs on both sides, and the adapter that W = M + A B hides
        "walsh_hadamard_with_orders_and_signs": lambda: (two_factors(x[:, order_in] * signs_in, left, right) * signs_out)[:, order_out],
        "adapter_rank_64_apart": lambda: x @ down @ up,
    }
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "dense": lambda: x @ dense,
        "walsh_hadamard_butterfly": lambda: butterfly(x),
        "walsh_hadamard_two_factors": lambda: two_factors(x, left, right),
        "one_bit_unpacked": lambda: unpack_product(x, packed, shifts),
    }
    expected = x[:64].float() @ dense.float()
    for name, way in ways.items():
        worst = float((way()[:64].float() - expected).abs().max() / expected.abs().max())
        if worst > 0.05:
            raise RuntimeError(f"{name} disagrees by {worst:.3f}")
    return {name: milliseconds(way, device) for name, way in (ways | extra).items()}


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--presets", nargs="+", choices=presets.names(), default=presets.names(), metavar="P", help="presets whose maps are made [all]")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=["hadamard", "orthogonal"], metavar="B", help="[hadamard orthogonal]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=DEVICE, help=f"of the products [{DEVICE}]")
    parser.add_argument("--rows", type=int, default=8192, help="rows of activations in the products [8192]")
    parser.add_argument("--workers", type=int, default=2, help="threads that make maps [2]")
    parser.add_argument("--json", metavar="F", help="write the figures there too")
    flags = parser.parse_args()
    made: list[dict[str, Any]] = []
    print(f"{'preset':<16}{'basis':<12}{'entries':>12}{'wall s':>9}{'cpu s':>9}{'MB bf16':>9}{'MB 1 bit':>9}")
    for preset in flags.presets:
        for basis in flags.bases:
            entries, took, work = regenerate(preset, basis, flags.workers)
            if entries:
                made.append({"preset": preset, "basis": basis, "entries": entries, "wall_s": took, "cpu_s": work})
                print(
                    f"{preset:<16}{basis:<12}{entries:>12,}{took:>9.2f}{work:>9.2f}{entries * 2e-6:>9.1f}{entries / 8e6:>9.1f}", flush=True
                )
    print(f"\nproduct of {flags.rows} rows on {flags.device}, ms")
    timed = {order: products(order, flags.rows, flags.device) for order in (512, 2048)}
    for order, ways in timed.items():
        print(f"  N = {order}: " + ", ".join(f"{name} {ms:.3f}" for name, ms in ways.items()))
    write_json(flags.json, {"maps": made, "products_ms": timed})
    return 0


if __name__ == "__main__":
    run_cli(main)
