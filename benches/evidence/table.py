"""Writes the rows of `target/evidence.json` as the table of `docs/method.md`, between its two marks.

    python3 benches/evidence/table.py target/evidence.json docs/method.md

Rows of one setting are means over their seeds, with the smallest and the largest test loss; the interval is that of the first seed.
"""

import json
import pathlib
import statistics
import sys

START, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
HEAD = """| settings | seeds | select loss | test loss | least to largest | test accuracy | CPU s | test loss − uniform (95 %) |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def line(settings, rows):
    mean = lambda name: statistics.fmean(row[name] for row in rows)
    losses = [row["test_loss"] for row in rows]
    low, high = rows[0]["test_difference_from_uniform"]
    spread = f"{min(losses):.4f} to {max(losses):.4f}" if len(rows) > 1 else ""
    seconds = f"{mean('seconds'):.0f}" if mean("seconds") >= 0.5 else ""
    return (
        f"| {settings} | {len(rows)} | {mean('select_loss'):.4f} | {mean('test_loss'):.4f} | {spread} "
        f"| {100 * mean('test_accuracy'):.2f} % | {seconds} | {low:+.4f} to {high:+.4f} |"
    )


def main():
    rows_path, page_path = map(pathlib.Path, sys.argv[1:3])
    by_settings = {}
    for row in json.loads(rows_path.read_text()):
        by_settings.setdefault(row["settings"], []).append(row)
    order = sorted(by_settings, key=lambda name: (not name.startswith("baseline"), name != "defaults"))
    table = "\n".join([HEAD, *(line(name, by_settings[name]) for name in order)])
    page = page_path.read_text()
    before, rest = page.split(START)
    after = rest.split(END)[1]
    page_path.write_text(f"{before}{START}\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
