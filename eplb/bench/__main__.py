"""`python -m eplb.bench`: what an evaluation costs (`eplb.bench.cost`)."""

from eplb.bench.cost import main
from eplb.common import exit_on_user_error

if __name__ == "__main__":
    exit_on_user_error(main)
