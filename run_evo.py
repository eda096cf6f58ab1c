"""Let ShinkaEvolve improve the balancer: `python run_evo.py`, with or without an API key.

    python run_evo.py evo_config.num_generations=40
    python run_evo.py offline=true seed=1
    python run_evo.py models=local/qwen3@http://127.0.0.1:8000/v1
    python run_evo.py resume=results/eplb/<run>
    python run_evo.py cluster=slurm

Takes the overrides that `shinka_launch variant=eplb_example` takes.
"""

from argparse import RawDescriptionHelpFormatter

from eplb.common import ArgumentParser, UserError, exit_on_user_error


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="see configs/")
    overrides = parser.parse_args().overrides
    # After the arguments: ShinkaEvolve takes seconds to import.
    try:
        from eplb.evolution.run import run
    except OSError as error:
        # It makes a folder in the home directory then.
        reason = f"cannot write {error.filename}: {error.strerror}"
        raise UserError(f"{reason}; set HOME to a folder that you may write") from error

    return run(overrides)


if __name__ == "__main__":
    exit_on_user_error(main)
