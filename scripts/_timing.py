"""Paired timings: two programs in turn, so that a machine that slows down slows both."""

import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax


def paired(programs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time every program once per round, in turn; the first (compiling) round is returned apart.

    Returns:
      Seconds per round and name; `name + " (first)"` holds the first call.
    """
    seconds: dict[str, list[float]] = {}
    for name, program in programs.items():
        seconds[f"{name} (first)"] = [once(program)]
    for _ in range(rounds):
        for name, program in programs.items():
            seconds.setdefault(name, []).append(once(program))
    return seconds


def once(program: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - start


def median_ratio(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Return min, median and max over the rounds of a / b, pair by pair."""
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    return ratios[0], statistics.median(ratios), ratios[-1]


def save(
    path: str | Path,
    name: str,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    **more: Any,
) -> None:
    """Write the table as JSON, with the date, the stack it was measured on and what is `more`."""
    import importlib.metadata as metadata
    import os
    import platform

    packages = ("jax", "jaxlib", "flax", "numpy", "torch", "torchattacks", "foolbox",
                "adversarial-robustness-toolbox")  # fmt: skip
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    record = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "device": f"{device.platform}: {device.device_kind}",
        "cores": os.cpu_count(),
        "versions": versions,
        "settings": settings,
        "rows": rows,
        **more,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nwritten: {path}")


def table(rows: list[dict[str, Any]]) -> str:
    """Render rows of equal keys as text."""
    names = list(rows[0])
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(n), *(len(c[i]) for c in cells)) for i, n in enumerate(names)]
    lines = ["  ".join(n.ljust(w) for n, w in zip(names, widths, strict=True))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
