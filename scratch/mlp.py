"""Scratch: an up product with its squared ReLU, and the down product's input gradient with the ReLU's, in one kernel each.  Not for merging."""

import sys

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def product(x, w, out, side, T, N, K: tl.constexpr, M: tl.constexpr, L: tl.constexpr, S: tl.constexpr, BACK: tl.constexpr, LEAK: tl.constexpr, PROGRAMS: tl.constexpr):
    """out (T, N) = x (T, K) wᵀ (N, K); forward: side (T, F) = its squared leaky ReLU; back: out times the slope at side (T, N)."""
    columns = tl.cdiv(N, L)
    for tile in tl.range(tl.program_id(0), tl.cdiv(T, M) * columns, PROGRAMS, flatten=True):
        row, column = tile // columns * M, tile % columns * L
        sums = tl.zeros((M, L), dtype=tl.float32)
        for k in range(0, K, S):
            sums = tl.dot(x.load([row, k]), w.load([column, k]).T, sums)
        if BACK:
            h = side.load([row, column]).to(tl.float32)
            out.store([row, column], (sums * tl.where(h > 0, 2 * h, 2 * LEAK * LEAK * h)).to(tl.bfloat16))
        else:
            rounded = sums.to(tl.bfloat16)
            out.store([row, column], rounded)
            h = rounded.to(tl.float32)
            side.store([row, column], tl.where(h > 0, h * h, LEAK * LEAK * h * h).to(tl.bfloat16))


def call(x, w, out, side, back, leak, config):
    m, l, s, stages, warps, per = config
    t, k = x.shape
    n = w.shape[0]
    descriptor = TensorDescriptor.from_tensor
    programs = min(132 * per, -(-t // m) * -(-n // l))
    product[(programs,)](
        descriptor(x, [m, s]), descriptor(w, [l, s]), descriptor(out, [m, l]), descriptor(side, [m, l]),
        t, n, K=k, M=m, L=l, S=s, BACK=back, LEAK=leak, PROGRAMS=programs, num_stages=stages, num_warps=warps,
    )  # fmt: skip


def check(device, t, k, n, f, config):
    x, w = (torch.randn(s, device=device, dtype=torch.bfloat16) for s in ((t, k), (n, k)))
    w *= k**-0.5
    out, side = torch.full((t, n), float("nan"), device=device, dtype=torch.bfloat16), torch.full((t, f), float("nan"), device=device, dtype=torch.bfloat16)
    call(x, w, out, side, False, 0.5, config)
    h = x.float() @ w.float().t()
    act = torch.where(h > 0, h * h, 0.25 * h * h)[:, :f]
    wrong = [float((a.float() - b).norm() / b.norm()) for a, b in ((out, h), (side, act))]
    before, grad = torch.randn(t, n, device=device, dtype=torch.bfloat16), torch.full((t, n), float("nan"), device=device, dtype=torch.bfloat16)
    call(x, w, grad, before, True, 0.5, config)
    b = before.float()
    expected = h * torch.where(b > 0, 2 * b, 0.5 * b)
    wrong.append(float((grad.float() - expected).norm() / expected.norm()))
    return wrong


CONFIGS = [(128, 128, 64, 4, 8, 1), (128, 128, 64, 2, 4, 2), (128, 256, 64, 2, 8, 1), (256, 128, 64, 2, 8, 1), (64, 256, 64, 3, 4, 1), (128, 64, 64, 3, 4, 2)]


def main():
    if not torch.cuda.is_available():
        print(check("cpu", 40, 64, 48, 40, (16, 16, 32, 2, 4, 1)))
        return
    from triton.testing import do_bench

    for t, k, n, f in ((65536, 512, 1600, 1536), (65536, 512, 1536, 1536), (131072, 512, 1024, 1024)):
        x, w = (torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in ((t, k), (n, k)))
        out, side, full = (torch.empty(t, c, device="cuda", dtype=torch.bfloat16) for c in (n, f, n))
        full.normal_()
        wt = w.t().contiguous()
        plain = [do_bench(task, warmup=5, rep=25, return_mode="median") for task in (lambda: x @ w.t(), lambda: x @ wt)]
        print(f"{t}x{k}x{n}: library's product alone {plain[0]:.3f} and {plain[1]:.3f} ms; activation by bytes {4e-9 * t * f / 2.7:.3f} and {6e-9 * t * f / 2.7:.3f}", flush=True)
        for config in CONFIGS:
            try:
                wrong = check("cuda", 1024, k, n, f, config)
                ms = [do_bench(task, warmup=5, rep=25, return_mode="median") for task in (lambda: call(x, w, out, side, False, 0.5, config), lambda: call(x, w, out, full, True, 0.5, config))]
                print(f"  {config}: forward {ms[0]:.3f}, back {ms[1]:.3f} ms; errors {' '.join(f'{e:.4f}' for e in wrong)}", flush=True)
            except Exception as error:
                print(f"  {config}: {type(error).__name__} {str(error).splitlines()[0][:150]}", flush=True)


main()
