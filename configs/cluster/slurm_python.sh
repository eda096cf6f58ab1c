# Sourced by every Slurm job: use the Python that started the run. sbatch hands the variable on.
export PATH="${EPLB_PYTHON_BIN:?not set: start the run with run_evo.py or shinka_launch}:$PATH"
