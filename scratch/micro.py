"""Scratch: single products and attention in isolation, on a GPU.  Not for merging."""

import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def ms(task):
    """Median milliseconds of a call."""
    if not CUDA:
        task()
        return float("nan")
    from triton.testing import do_bench

    return do_bench(task, warmup=10, rep=40, return_mode="median")


def guarded(name, task, flops):
    try:
        t = ms(task)
        print(f"{name:58} {t:7.3f} ms {flops / t / 1e9:7.1f} TFLOP/s", flush=True)
    except Exception as error:
        print(f"{name:58} failed: {str(error).splitlines()[0][:120]}", flush=True)


def product(t, k, n):
    x = torch.randn(t, k, device=DEVICE, dtype=torch.bfloat16)
    w = torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16)
    dy = torch.randn(t, n, device=DEVICE, dtype=torch.bfloat16)
    flops, name = 2 * t * k * n, f"{t}x{k}x{n}"
    guarded(f"{name} forward", lambda: x @ w.t(), flops)
    guarded(f"{name} input gradient", lambda: dy @ w, flops)
    guarded(f"{name} weight gradient", lambda: dy.t() @ x, flops)
    if not CUDA:
        return
    one = torch.ones((), device=DEVICE)
    xq, wq = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
    for fast in (True, False):
        guarded(f"{name} forward fp8, fast {fast}", lambda fast=fast: torch._scaled_mm(xq, wq.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=fast), flops)
    dyq, wtq = dy.to(torch.float8_e5m2), w.t().contiguous().to(torch.float8_e4m3fn)
    guarded(f"{name} input gradient fp8", lambda: torch._scaled_mm(dyq, wtq.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True), flops)


def attention(batch, length, heads, kv, width, layout, backend):
    t = batch * length
    if layout == "packed":
        qkv = torch.randn(t, (heads + 2 * kv) * width, device=DEVICE, dtype=torch.bfloat16).view(batch, length, -1, width)
        q, k, v = qkv.split([heads, kv, kv], dim=2)
    else:
        q, k, v = (torch.randn(batch, length, n, width, device=DEVICE, dtype=torch.bfloat16) for n in (heads, kv, kv))
    q, k, v = (x.detach().transpose(1, 2) for x in (q, k, v))
    if layout == "heads first":
        q, k, v = (x.contiguous() for x in (q, k, v))
    if layout == "repeated":
        k, v = (x.repeat_interleave(heads // kv, dim=1) for x in (k, v))
    for x in (q, k, v):
        x.requires_grad_()
    dy = torch.randn(batch, length, heads, width, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
    flops = 2 * t * length * heads * width
    with sdpa_kernel(backend):
        call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != heads)
        name = f"{backend.name[:5]} {batch}x{length} {heads}/{kv}x{width} {layout}"
        guarded(name + " forward", call, flops)
        try:
            y = call()
        except Exception:
            return
        guarded(name + " backward", lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True), 2.5 * flops)


def main():
    small = "--small" in sys.argv
    t = 256 if small else 65536
    if CUDA:
        a, b = (torch.empty(1 << 30, device=DEVICE, dtype=torch.uint8) for _ in range(2))
        print(f"copy of 1 GiB: {2 * (1 << 30) / ms(lambda: b.copy_(a)) / 1e9:.2f} TB/s")
    for k, n in ((512, 1024), (512, 1216), (512, 512), (512, 1536), (512, 1600), (1536, 512), (1536, 576), (1024, 512), (512, 576)):
        product(t, k, n)
    product(t if small else 131072, 512, 1024)
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        for layout in ("separate", "packed", "heads first", "repeated") if backend == SDPBackend.CUDNN_ATTENTION else ("separate",):
            attention(2 if small else 32, 128 if small else 2048, 8, 4, 64, layout, backend)
            attention(2 if small else 128, 128 if small else 1024, 8, 4, 64, layout, backend)


main()
