"""Write what an evolution did as one HTML page that needs no network: `python -m eplb.report`. The
run may still be going on. Not covered: what the page shows (`eplb.report.page`).
"""

from __future__ import annotations

import time

from eplb.common import (
    DONE,
    ArgumentParser,
    exit_on_user_error,
    output_argument,
    path_argument,
    write_text,
)
from eplb.report.page import render
from eplb.report.program import read


def main() -> int:
    parser = ArgumentParser("python -m eplb.report", description=__doc__)
    add = parser.add_argument
    add("results", type=path_argument, help="the results folder of a run")
    page = "the page to write (default: report.html in the results folder)"
    add("--output", type=output_argument, metavar="FILE", help=page)
    arguments = parser.parse_args()
    output = arguments.output or arguments.results / "report.html"
    write_text(output, render(read(arguments.results), time.time()))
    print(output)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)
