"""Shards of one sweep, put together."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advjax.store import _manifest
from advjax.store._files import write_atomic

SHARDS = "shard-*-of-*"


def check_shards(folder: str | Path, total: int, identity: Mapping[str, Any]) -> None:
    """Check that a shard of `total` can be put together with what `folder` holds.

    Args:
      folder: of the whole sweep.
      total: number of shards; 1: a sweep that is not divided.
      identity: of the sweep, as `Store` takes it.

    Raises:
      ValueError: the folder holds shards of another division, or rows of another evaluation.
    """
    out = Path(folder)
    other = sorted(path.name for path in _shards(out) if _total(path) != total)
    if other:
        now = f"{total} shards" if total > 1 else "a sweep that is not divided"
        raise ValueError(
            f"{out}: holds {other[0]}, which does not go together with {now}; finish those shards "
            "(advjax report puts them together), or choose another out folder"
        )
    if total > 1:
        _check_own_rows(out, _manifest.identity_hashes(identity))


def merge_shards(folder: str | Path) -> int:
    """Copy the rows and panels of `folder/shard-i-of-n` into `folder`; return how many shards.

    Rows that are there already stay. Nothing happens where there are no shards.

    Raises:
      ValueError: shards of different sweeps, or of different numbers, or the folder holds rows
        of another one. Nothing is written then.
    """
    out = Path(folder)
    shards = _shards(out)
    if not shards:
        return 0
    totals = {_total(path) for path in shards}
    manifests = [_manifest.read_manifest(path / "manifest.json") for path in shards]
    first = manifests[0]
    if len(totals) > 1 or any(m.get("identity") != first.get("identity") for m in manifests):
        raise ValueError(
            f"{out}: its shards are not of one sweep ({', '.join(p.name for p in shards)}); "
            "remove those of another one"
        )
    _check_own_rows(out, first.get("identity") or {})
    for shard in shards:
        for kind in ("rows", "panels"):
            for path in sorted((shard / kind).rglob("*")) if (shard / kind).is_dir() else ():
                target = out / path.relative_to(shard)
                if path.is_file() and not path.name.startswith(".") and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(target, path.read_bytes())
    merged = {**first, "parts": [part for m in manifests for part in m.get("parts", [])]}
    merged["extra"] = _merge_extra([m.get("extra", {}) for m in manifests])
    (total,) = totals
    there = {path.name for path in shards}
    names = [f"shard-{i}-of-{total}" for i in range(total)]
    merged["extra"]["missing_shards"] = [name for name in names if name not in there]
    write_atomic(out / "manifest.json", (json.dumps(merged, indent=2) + "\n").encode())
    if not (out / "config.json").exists() and (shards[0] / "config.json").exists():
        shutil.copyfile(shards[0] / "config.json", out / "config.json")
    return len(shards)


def _shards(out: Path) -> list[Path]:
    return sorted(path for path in out.glob(SHARDS) if (path / "rows").is_dir())


def _total(shard: Path) -> int:
    return int(shard.name.rpartition("-")[2])


def _check_own_rows(out: Path, given: Mapping[str, str]) -> None:
    """Refuse to put shards beside rows that are not theirs."""
    path = out / "manifest.json"
    if path.is_file() and any((out / "rows").glob("*.parquet")):
        stored = _manifest.read_manifest(path).get("identity") or {}
        _manifest.check_identity(out, stored, given)


def missing_shards(folder: str | Path) -> list[str]:
    """Return names of the shards that were not there when `folder` was put together."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        return []
    return list(_manifest.read_manifest(path).get("extra", {}).get("missing_shards", []))


def _merge_extra(extras: list[dict[str, Any]]) -> dict[str, Any]:
    """Add costs up; keep the trust flags of every shard apart, since each looked by itself."""
    merged = dict(extras[0])
    cost: dict[str, dict[str, dict[str, float]]] = {}
    for extra in extras:
        for model, attacks in extra.get("cost", {}).items():
            for attack, numbers in attacks.items():
                mine = cost.setdefault(model, {}).setdefault(attack, {})
                for name, value in numbers.items():
                    mine[name] = mine.get(name, 0) + value
    merged["cost"] = cost
    cascades: dict[str, dict[str, Any]] = {}
    for extra in extras:
        for model, attacks in extra.get("cascades", {}).items():
            for attack, told in attacks.items():
                new = {"broken_by": {}, "notes": told["notes"]}
                broken = cascades.setdefault(model, {}).setdefault(attack, new)["broken_by"]
                for who, count in told["broken_by"].items():
                    broken[who] = broken.get(who, 0) + count
    if cascades:
        merged["cascades"] = cascades
    for name in ("trust", "idle"):
        merged[name] = [line for extra in extras for line in extra.get(name, [])]
    return merged
