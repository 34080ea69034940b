"""Runs every benchmark beside its peer in one run, prints one table and writes `target/bench.json`.

    python benches/compare/run.py [--only PREFIX] [--rounds 3] [--folder DIR]

Called by `make bench`, which has built the Rust programs and made the Python environment. Each side is a program of its own
that prints JSON lines; the two are run in turn, `--rounds` times, and the best round of each counts, so that a busy moment
of the machine harms both alike. A row is {figure, ours, against, ratio, target, holds}: `ratio` is ours over against
(speed, time, memory), or against over ours where the target is "times faster"; `holds` says whether the target is met.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import figures
from results import keep, processor

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A pool of threads that spins while it waits steals the cores from the other side.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


class Machine:
    """Runs programs and remembers the best of what they said."""

    def __init__(self, rounds, folder):
        self.rounds, self.folder = rounds, folder

    def ours(self, program, *arguments):
        return [str(ROOT / "target/release" / program), *map(str, arguments)]

    def peer(self, script, *arguments):
        return [sys.executable, str(ROOT / "benches/compare" / script), *map(str, arguments)]

    def lines(self, command, environment=None):
        ran = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **PASSIVE, **(environment or {})}
        )
        return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]

    def side_by_side(self, *commands, key="seconds", rounds=None):
        """The line with the least `key` of each command, over all rounds; the commands take turns."""
        best = [None] * len(commands)
        for _ in range(rounds or self.rounds):
            for place, command in enumerate(commands):
                for line in self.lines(command):
                    if best[place] is None or line[key] < best[place][key]:
                        best[place] = line
        return best


def shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(rows):
    columns = ("figure", "ours", "against", "ratio", "target", "holds")
    cells = [columns] + [tuple(shown(row[column]) for column in columns) for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="figures whose group starts so")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=str(ROOT / "target/bench"), help="for files of several gigabytes")
    parser.add_argument("--data", default=str(ROOT.parent / "shared/data/cifar10-resnet20"))
    parser.add_argument("--keep", metavar="MACHINE", help="also write benches/results/MACHINE.json")
    arguments = parser.parse_args()
    pathlib.Path(arguments.folder).mkdir(parents=True, exist_ok=True)
    machine = Machine(arguments.rounds, arguments.folder)
    rows = []
    for group, measure in figures.GROUPS.items():
        if not group.startswith(arguments.only):
            continue
        print(f"measuring {group} ...", file=sys.stderr, flush=True)
        try:
            for row in measure(machine, pathlib.Path(arguments.data)):
                rows.append(row)
                print(*(shown(value) for value in row.values()), sep="  ", file=sys.stderr, flush=True)
        except subprocess.CalledProcessError as error:
            # The other groups are still worth having; the table shows the hole.
            rows.append(figures.failed(group, f"{pathlib.Path(error.cmd[0]).name} exited with {error.returncode}"))
    print(f"machine: {processor()}, {os.cpu_count()} cores")
    print_table(rows)
    (ROOT / "target/bench.json").write_text(json.dumps(rows, indent=1) + "\n")
    if arguments.keep:
        keep(rows, arguments.keep)
    sys.exit(0 if rows else 1)


if __name__ == "__main__":
    main()
