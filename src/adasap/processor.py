"""What the processor computes natively, and what its convolution library makes of it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any, Literal

import torch

Precision = Literal["float32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> number type of the forward pass."""

_WITHOUT_BF16 = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni")


def has(feature: str) -> bool | None:
    """Whether the processor has `avx2`, `avx512`, `avx512_bf16` or `amx_tile`; None where this torch cannot say.

    Example:
        >>> has("mmx2001") is None
        True
    """
    probe = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return None if probe is None else bool(probe())


def has_onednn() -> bool:
    """Whether this torch computes its convolutions with oneDNN."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def onednn_limit() -> str | None:
    """The instruction set that the user limits oneDNN to by `ONEDNN_MAX_CPU_ISA`, in lower case; None without limit."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    return limit.lower() if limit else None


def native_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere it is emulated, several times slower than float32."""
    if onednn_limit() in _WITHOUT_BF16:
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(has("avx512_bf16") or has("amx_tile"))


def saturates_int8() -> bool:
    """Whether pairs of 8-bit products are added in 16 bits, where they are cut off: x86 without VNNI (`vpmaddubsw`)."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return False
    try:
        flags = re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return not has("vnni")
    return not {"avx512_vnni", "avx_vnni"} & set(" ".join(flags[:1]).split())


def describe() -> dict[str, Any]:
    """The processor as a run records it, ready for JSON.

    Example:
        >>> sorted(describe())
        ['instruction_set', 'native_bf16', 'onednn_limit']
    """
    return {
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "native_bf16": native_bf16(),
        "onednn_limit": onednn_limit(),
    }
