"""Writes the rows of `target/evidence.json` and `target/evidence-tasks.json` as the tables of `docs/method.md`, between their marks.

    python3 benches/evidence/table.py target docs/method.md

Rows of one setting are means over their seeds, with the smallest and the largest test loss; the interval is that of the first seed.
A file that is not there leaves its table as it is.
"""

import json
import pathlib
import statistics
import sys

HEAD = """| settings | seeds | select loss | as fitted | test loss | least to largest | test accuracy | CPU s | test loss − uniform (95 %) |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def line(settings, rows):
    mean = lambda name: statistics.fmean(row[name] for row in rows)
    losses = [row["test_loss"] for row in rows]
    low, high = rows[0]["test_difference_from_uniform"]
    spread = f"{min(losses):.4f} to {max(losses):.4f}" if len(rows) > 1 else ""
    fitted = [row["as_fitted_select_loss"] for row in rows if row.get("as_fitted_select_loss") is not None]
    as_fitted = f"{statistics.fmean(fitted):.4f}" if fitted else ""
    seconds = f"{mean('seconds'):.0f}" if mean("seconds") >= 0.5 else ""
    return (
        f"| {settings} | {len(rows)} | {mean('select_loss'):.4f} | {as_fitted} | {mean('test_loss'):.4f} | {spread} "
        f"| {100 * mean('test_accuracy'):.2f} % | {seconds} | {low:+.4f} to {high:+.4f} |"
    )


def settings_table(rows):
    by_settings = {}
    for row in rows:
        by_settings.setdefault(row["settings"], []).append(row)
    order = sorted(by_settings, key=lambda name: (not name.startswith("baseline"), name != "defaults"))
    return [HEAD, *(line(name, by_settings[name]) for name in order)]


def tasks_table(rows):
    by_method = {}
    for row in rows:
        name = row["method"] if row.get("settings", "baseline") == "baseline" else f"twa, {row['settings']}"
        by_method.setdefault((row["task"], name), []).append(row)
    lines = ["| task | method | seeds | select loss | test loss | test accuracy |", "| --- | --- | --- | --- | --- | --- |"]
    for (task, name), rows in sorted(by_method.items(), key=lambda item: item[0][0]):
        mean = lambda field: statistics.fmean(row[field] for row in rows)
        select = f"{mean('select_loss'):.4f}" if "select_loss" in rows[0] else ""
        accuracy = f"{100 * mean('test_accuracy'):.2f} %"
        lines.append(f"| {task} | {name} | {len(rows)} | {select} | {mean('test_loss'):.4f} | {accuracy} |")
    return lines


def replace(page, mark, lines):
    start, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = page.split(start)
    after = rest.split(end)[1]
    table = "\n".join(lines)
    return f"{before}{start}\n{table}\n{end}{after}"


def main():
    folder, page_path = map(pathlib.Path, sys.argv[1:3])
    page = page_path.read_text()
    for mark, table in [("evidence", settings_table), ("evidence-tasks", tasks_table)]:
        path = folder / f"{mark}.json"
        if path.exists():
            page = replace(page, mark, table(json.loads(path.read_text())))
    page_path.write_text(page)


if __name__ == "__main__":
    main()
