"""Settings of the process that belong to the program, not to the library."""

import os
from pathlib import Path

import jax


def prepare(devices: int = 1) -> None:
    """Keep compiled programs between runs, and split a CPU where several devices are asked for.

    Must run before the first use of a device. What the user set in the environment stays.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "advjax" / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = os.environ.get("JAX_NUM_CPU_DEVICES") or "host_platform_device_count" in flags
    if devices > 1 and not chosen:
        jax.config.update("jax_num_cpu_devices", devices)
