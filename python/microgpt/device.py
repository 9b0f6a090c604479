"""Where to compute, how precisely, with how many threads, and what it took.

torch is imported only by the functions that need it; `calm_threads` must run before that import.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microgpt.errors import UsageError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


DEVICES = ("cpu", "cuda", "mps")
"""Kinds of torch's devices that plans and limits are known for."""


def calm_threads() -> None:
    """Keeps idle OpenMP threads from spinning long; call it before torch is imported.

    By default a thread that waits for the others spins for milliseconds, which on a machine with
    other work takes the very core that the others need. A short spin keeps what is good about it.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # GNU's runtime, in torch for Linux
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # Intel's and LLVM's, in torch elsewhere


def choose_device(name: str) -> str:
    """Returns the torch device that `name` asks for; "auto" is CUDA, else MPS, else CPU.

    Raises:
        UsageError: this machine or this torch does not have it.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if torch.device(name).type not in DEVICES:
            raise UsageError(f"device {name!r} is none of {', '.join(DEVICES)}; try --device auto")
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "it is not there"
        raise UsageError(f"device {name!r} cannot be used: {reason}; try --device auto") from error
    return name


def choose_dtype(name: str, device: str) -> str:
    """Returns "float32", "bfloat16" or "float16"; "auto" is bfloat16 on a CUDA device that computes
    in it, else float32."""
    import torch

    if name != "auto":
        return name
    if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


def give_memory_back() -> None:
    """Gives what is no longer used back to the system; glibc would keep it for later."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # other C libraries have none
            trim(0)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Returns whether matrix products in bfloat16 are quicker there: CUDA, or a CPU with AMX or
    AVX-512 BF16."""
    import torch

    if device.type != "cpu":
        return device.type == "cuda"
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a torch built without oneDNN
        return False


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its matrix products. Weights are float32 whatever it is."""

    device: torch.device
    dtype: str = "float32"
    """"float32", "bfloat16" or "float16"."""

    @staticmethod
    def of(device: str, dtype: str, tf32: bool = True) -> Compute:
        """Returns the compute for settings that may be "auto". With `tf32`, float32 products on
        CUDA may round what they multiply to TF32's ten bits.

        Raises:
            UsageError: the device is not there.
        """
        import torch

        chosen = choose_device(device)
        if chosen.startswith("cuda"):
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
        return Compute(torch.device(chosen), choose_dtype(dtype, chosen))

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which matrix products take this precision."""
        import torch

        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.dtype))

    def exact(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context for measuring and answering: as `autocast`, but on a CPU, where low
        precision is for the speed of training alone, in float32."""
        return contextlib.nullcontext() if self.device.type == "cpu" else self.autocast()

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """Returns a copy of `array` on the device."""
        import torch

        tensor = torch.from_numpy(array.copy() if not array.flags.c_contiguous else array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def peak_memory_bytes(self) -> int:
        """Returns the most memory held so far: the device's on CUDA, else the process'."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return peak_process_bytes()

    def name(self) -> str:
        """Returns what people call it: "cpu", "mps", or the GPU's own name."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type


def peak_process_bytes() -> int:
    """Returns the most memory this process has held so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cores() -> int:
    """Returns the processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_text() -> str:
    """Returns this machine in a few words: processor, cores, memory, system."""
    processor = _processor() or platform.processor() or platform.machine()
    parts = [processor, f"{cores()} cores"]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        parts.append(f"{memory / 1e9:.0f} GB")
    return ", ".join([*parts, platform.system()])


def _processor() -> str | None:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return None
