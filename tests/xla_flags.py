"""Flags of XLA that the tests run with; nothing of jax is imported here."""

import importlib.util
import mmap
import os
from pathlib import Path

# One thread: those of XLA's convolutions round differently now and then (6 of 3,383 runs of four
# training steps on a busy machine), and tests compare bits. The older code generator: tiny
# programs take a third of the time to compile, and most of the suite is that.
STEADY = (
    "xla_cpu_multi_thread_eigen=false",
    "xla_cpu_use_fusion_emitters=false",
)
# Little optimisation, which saves another 40 % of all seconds (with none at all FAB runs 16 times
# slower). Not for children of tests: they keep compiled programs on disk, and with these flags
# trainings that loaded them ended with other last bits.
QUICK = (
    "xla_backend_optimization_level=1",
    "xla_llvm_disable_expensive_passes=true",
)
# No optimisation, for tests that are marked `unoptimised`, and their children: programs are
# compiled in half the time again.
NONE = "jax_disable_most_optimizations"


def known_flags(wanted: tuple[str, ...]) -> str:
    """Return those that this jaxlib knows: it ends the process at any other.

    A flag that is gone leaves its name as a reserved one, which is no string that ends in a zero.
    """
    folder = next(iter(importlib.util.find_spec("jaxlib").submodule_search_locations))
    library = Path(folder) / "libjax_common.so"
    if not library.exists():
        return ""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        known = [flag for flag in wanted if data.find(flag.split("=")[0].encode() + b"\0") >= 0]
    return " ".join(f"--{flag}" for flag in known)


def as_here() -> dict[str, str]:
    """Return the environment of a child whose bits are compared with those of this process."""
    flags = f"{known_flags(QUICK)} {os.environ.get('XLA_FLAGS', '')}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
