"""Print the tables of results that `x2sam eval` wrote, also into Markdown pages."""

from __future__ import annotations

import argparse
from pathlib import Path

from tables import print_table, printed_into

from x2sam_ros.evaluation.results_file import read_results
from x2sam_ros.evaluation.results_table import results_tables


def main() -> None:
    """Print one table for each data set of each results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="results.json, or the folder of an evaluation")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--into", type=Path, nargs="+", default=[], help="Markdown pages to write the tables into")
    parser.add_argument("--name", default="eval-table", help="of the markers in the pages")
    options = parser.parse_args()
    with printed_into(options.into, options.name):
        for path in options.results:
            results = read_results(path / "results.json" if path.is_dir() else path)
            print(f"{path.name}: {results.environment.get('hardware', '')}, {results.environment.get('date', '')}")
            for title, header, rows in results_tables(results):
                print_table(title, header, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()
