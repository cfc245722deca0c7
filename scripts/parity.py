"""Every attack against what official code produced, and against its peers where those are right.

    python scripts/parity.py [--only apgd fab ...] [--nets NAME ...] [--autoattack] [--no-peers]
                             [--out FILE.json]

Goldens are read from ADVJAX_GOLDEN_DIR: fixed nets, their images, and the points, losses, distances
and robust flags of the official implementations, in float64. Peers (Foolbox, torchattacks, ART; the
bench extra) attack the same nets from the same starts. What they are known to get wrong is named
and not compared. The exit status is 1 where a bound is missed.
"""

import argparse
import os
from typing import Any

import _golden_nets
import _parity_goldens
import _parity_peers
import _peers
import _timing
import jax

NETS = ("net_rgb_7class", "net_gray_2class")
COLUMNS = ("attack", "norm", "loss", "net", "against", "what", "deviation", "bound", "held")
LEGEND = """
points: largest difference of a pixel; losses: largest difference (in 100 steps, and of peers, over
1 + |loss|); median, worst distance: ours over theirs, less 1 (negative: nearer); successes missed:
rows where they succeed and we do not.
"""


def main(argv: list[str] | None = None) -> None:
    args = _parse(argv)
    rows: list[dict[str, Any]] = []

    def add(found: Any) -> None:
        for row in found:
            rows.append(row)
            print(_line(row), flush=True)

    def wanted(attack: str) -> bool:
        return args.only is None or any(attack.startswith(name) for name in args.only)

    with jax.enable_x64(True):
        for name in args.nets:
            net = _parity_goldens.load(name)
            add(_parity_goldens.rows(net, wanted))
            if args.peers:
                add(_parity_peers.rows(net, wanted, args.peers))
    if args.autoattack:
        add(_parity_goldens.autoattack_rows())
    if args.peers:
        add(_parity_peers.defects(args.peers, wanted))
    if not rows:
        raise SystemExit(f"--only {' '.join(args.only)}: no attack of the table has such a name")
    print(f"\n{report(rows)}")
    missed = [row for row in rows if row.get("held") is False]
    if args.out:
        settings = {k: v for k, v in vars(args).items() if k != "out"}
        _timing.save(args.out, "parity", rows, settings, load=os.getloadavg(), missed=len(missed))
    if missed:
        raise SystemExit(1)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="ATTACK", help="rows whose attack begins like one of these"
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument(
        "--autoattack", action="store_true", help="also the official robust flags: minutes"
    )
    parser.add_argument("--peers", nargs="*", choices=_peers.PEERS, default=list(_peers.PEERS))
    parser.add_argument("--no-peers", dest="peers", action="store_const", const=[])
    parser.add_argument("--out", default=None, help="write the table as JSON here")
    args = parser.parse_args(argv)
    _golden_nets.folder()
    lacking = {name: _peers.missing(name) for name in args.peers}
    if any(lacking.values()):
        gone = ", ".join(f"{k} (no {v})" for k, v in lacking.items() if v)
        print(f"left out: {gone}; they are in the bench extra\n")
    args.peers = [name for name in args.peers if not lacking[name]]
    return args


def report(rows: list[dict[str, Any]]) -> str:
    """Return the table, what is not compared and why, and how many bounds held."""
    measured = [row for row in rows if "held" in row]
    notes = [row for row in rows if "note" in row]
    parts = []
    if measured:
        told = {True: "yes", False: "NO"}
        table = [
            {name: row.get(name) for name in COLUMNS} | {"held": told[row["held"]]}
            for row in measured
        ]
        parts.append(_timing.table(table) + "\n" + LEGEND)
    if notes:
        parts.append("not compared:")
        parts += [_line(row) for row in notes]
        parts.append("")
    held = sum(row["held"] for row in measured)
    parts.append(f"{held} of {len(measured)} bounds held")
    return "\n".join(parts)


def _line(row: dict[str, Any]) -> str:
    """Return a row in words, for the minutes until the table."""
    said = (row["attack"], row["norm"], row["loss"], row["net"])
    name = f"{row['against']}, {' '.join(part for part in said if part != '-')}"
    if "note" in row:
        return f"{name}: {row['note']}"
    told = "" if row["held"] else "  MISSED"
    return f"{name}, {row['what']}: {row['deviation']:.3g} (at most {row['bound']:g}){told}"


if __name__ == "__main__":
    main()
