"""python -m tests.benchmarks [file ...] [--against torch] [--threads 1 2] [--only TEXT] [--rounds N] [--json FILE]"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorlib as tl
from tests.benchmarks.harness import Figure, Row, run_figure, run_race

FILES = sorted(
    m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in {"__main__", "harness"}
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Time tensorlib, beside another library if asked to."
    )
    parser.add_argument("files", nargs="*", metavar="file", help=f"which of: {', '.join(FILES)} (all)")
    parser.add_argument(
        "--against", choices=["torch"], help="time the same programs with this library, in alternating rounds"
    )
    parser.add_argument(
        "--threads", nargs="+", type=int, default=[1], help="run everything once with each number of threads (1)"
    )
    parser.add_argument("--only", metavar="TEXT", help="only what has TEXT in its name")
    parser.add_argument("--rounds", type=int, default=41, help="of which the median counts (41)")
    parser.add_argument("--quick", action="store_const", dest="rounds", const=5, help="the same as --rounds 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    args = parser.parse_args()
    if unknown := set(args.files) - set(FILES):
        parser.error(f"no such file: {', '.join(sorted(unknown))}; there are {', '.join(FILES)}")
    return args


def measure(args: argparse.Namespace, against: ModuleType | None) -> Iterator[Row]:
    for round_, threads in enumerate(args.threads):
        tl.set_num_threads(threads)
        if against:
            against.set_num_threads(threads)
        for file in args.files or FILES:
            for work in importlib.import_module(f"tests.benchmarks.{file}").workloads():
                if args.only and args.only not in work.name:
                    continue
                if isinstance(work, Figure):
                    if not (work.once and round_):
                        yield run_figure(work, file, threads, args.rounds)
                else:
                    yield run_race(work, file, tl, against, threads, args.rounds)


def show(row: Row) -> None:
    value = "" if row.value is None else f"{row.value:.3f}"
    mark = {True: "ok", False: "MISSED", None: ""}[row.ok]
    print(
        f"{row.file:12} {row.threads:2} {row.name:52} {row.shown:26} {value:>9}  {row.target:10} {mark}".rstrip(),
        flush=True,
    )


def about(against: ModuleType | None) -> dict[str, Any]:
    return {
        "tensorlib": tl.__version__,
        "against": f"{against.__name__} {against.__version__}" if against else None,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
    }


def main() -> int:
    args = arguments()
    against = importlib.import_module(args.against) if args.against else None
    head = about(against)
    print(", ".join(f"{key} {value}" for key, value in head.items() if value))
    theirs = f"{args.against:>12}" if against else ""
    print(f"{'file':12} {'th':>2} {'work':52} {'ours':>12}  {theirs:12} {'value':>9}  target")
    rows = []
    for row in measure(args, against):
        show(row)
        rows.append(row)
    if args.json:
        args.json.write_text(json.dumps({**head, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    missed = [row for row in rows if row.ok is False]
    print(f"{sum(row.ok is True for row in rows)} targets met, {len(missed)} missed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
