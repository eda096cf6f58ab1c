"""Fetch the balancers that serving engines ship: `python -m eplb.bench.published`.

Covered: writing each as one file on the program contract, unchanged but for what makes it stand
alone, with an adapter below it. None of that code is part of this project: whoever runs the command
fetches it under its own licence, which the written file names.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from eplb.bench.published.catalogue import PUBLISHED, Published
from eplb.bench.published.releases import download, read_member
from eplb.common import (
    DONE,
    ArgumentParser,
    UserError,
    check_writable,
    exit_on_user_error,
    path_argument,
    write_text,
)


def assemble(published: Published, member: str) -> str:
    """The program made of the text of ``member``; raises `ValueError` where it is another text."""
    for cut, instead in published.cuts.items():
        if member.count(cut) != 1:
            raise ValueError(f"{published.member} has {member.count(cut)} times {cut!r}")
        member = member.replace(cut, instead)
    release = published.release
    changed = "what ties it to its engine is taken out" if published.cuts else "unchanged"
    return f"""# From {release.filename}, {published.member}
# (sha256 {release.sha256}).
# Licence: {release.licence}.
# Fetched by `python -m eplb.bench.published`: {changed}, and an adapter to the
# program contract is added below. Fetching it again overwrites this file.

# EVOLVE-BLOCK-START
{member.rstrip()}


# Adapter
{published.adapter.replace("CHOSEN", published.chosen).rstrip()}


# EVOLVE-BLOCK-END


def run_eplb(weight, num_replicas, num_groups, num_nodes, num_gpus):
    return rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus)
"""


def main(arguments: list[str] | None = None) -> int:
    known = ", ".join(PUBLISHED)
    parser = ArgumentParser(prog="python -m eplb.bench.published", description=__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"default: all of {known}")
    add("--output_dir", type=path_argument, required=True, metavar="FOLDER", help="for programs")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in PUBLISHED]
    if unknown:
        raise UserError(f"{unknown[0]} is not known; there are: {known}")
    check_writable(args.output_dir / "a program")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names or PUBLISHED:
            archive = download(PUBLISHED[name].release, Path(folder))
            path = args.output_dir / f"{name}.py"
            member = read_member(archive, PUBLISHED[name].member)
            write_text(path, assemble(PUBLISHED[name], member))
            print(path)
    return DONE


if __name__ == "__main__":
    exit_on_user_error(main)
