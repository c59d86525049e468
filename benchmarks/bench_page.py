"""Put what `x2sam bench --json` wrote into pages, as tables between the markers `bench`, and draw the first of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from tables import printed_into

from x2sam_ros.cli.bench import print_report
from x2sam_ros.evaluation.bench_plot import plot_bench
from x2sam_ros.evaluation.bench_report import read_json


def main() -> None:
    """Read the reports, print and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", help="JSON files of x2sam bench")
    parser.add_argument("--into", type=Path, nargs="+", default=[], help="Markdown pages to write the tables into")
    parser.add_argument("--plot", type=Path, help="where the plot of the first report goes")
    options = parser.parse_args()
    reports = [read_json(path) for path in options.reports]
    with printed_into(options.into, "bench"):
        for position, report in enumerate(reports):
            if position:
                print()
            print_report(report, markdown=True)
    if options.plot is not None:
        plot_bench(reports[0], options.plot)


if __name__ == "__main__":
    main()
