"""Committed results of this machine: rows of a table, kept in `benches/results/NAME.json`.

    python benches/compare/results.py target/load.json NAME
"""

import datetime
import json
import os
import pathlib
import platform
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def processor():
    with open("/proc/cpuinfo") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    vectors = [word for word in ("avx2", "avx512f") if word in named.get("flags", "").split()]
    return f"{named.get('model name', platform.machine())}, family {named.get('cpu family', '?')}, {' '.join(vectors)}"


def keep(rows, name):
    """Adds these rows to the machine's committed results; figures measured again replace the old ones."""
    path = ROOT / "benches/results" / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {"rows": []}
    today = datetime.date.today().isoformat()
    new = {row["figure"]: {**row, "date": today} for row in rows}
    kept = [new.pop(row["figure"], row) for row in old["rows"]]
    result = {"machine": f"{processor()}, {os.cpu_count()} cores", "rows": kept + list(new.values())}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    keep(json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2])
