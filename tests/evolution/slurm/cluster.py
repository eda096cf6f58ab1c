"""A real Slurm of one node on loopback, in a folder of its own: Debian's slurm-wlm and munge."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=5
KillWait=2
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

DAEMONS = ("munged", "slurmctld", "slurmd")


def missing_programs() -> list[str]:
    """Slurm's programs that are not installed."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    programs = (*DAEMONS, "sbatch", "squeue", "scontrol")
    return [name for name in programs if not shutil.which(name, path=path)]


class Cluster:
    """A controller and one node, for as long as the ``with`` block lasts."""

    def __enter__(self) -> Cluster:
        # Not under pytest's own folder: a socket's path may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=self.folder,
                host=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                controller_port=free_port(),
                node_port=free_port(),
                cpus=os.cpu_count(),
                memory=psutil.virtual_memory().total // 2**20 // 2,
            )
        )
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self.processes: dict[str, subprocess.Popen] = {}
        try:
            self._start_munge()
            self._start("slurmctld", "-D")
            self.start_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in reversed(DAEMONS):
            self._kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_node(self) -> None:
        """Start the node's daemon, and wait until the node takes jobs."""
        self._start("slurmd", "-D")
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T") in ("idle", "mixed", "allocated"))

    def lose_node(self) -> None:
        """What a power cut does: the node's daemon and its jobs are gone without a word."""
        self._kill("slurmd")

    def run(self, *command: str) -> str:
        answer = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True
        )
        return answer.stdout.strip()

    def wait(self, condition, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = [path.read_text()[-2000:] for path in self.folder.glob("*.log")]
                raise TimeoutError("\n".join(logs))
            time.sleep(0.2)

    def _start_munge(self) -> None:
        names = {"key-file": "munge.key", "socket": "munge.socket", "log-file": "munge.log"}
        names |= {"pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._start("munged", "--foreground", "--force", "--num-threads=2", *options)
        self.wait((self.folder / "munge.socket").exists)

    def _start(self, name: str, *arguments: str) -> None:
        path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        with open(self.folder / f"{name}.out", "a") as out:
            self.processes[name] = subprocess.Popen(
                [path, *arguments],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def _kill(self, name: str) -> None:
        process = self.processes.pop(name, None)
        if process is None:
            return
        family = [*psutil.Process(process.pid).children(recursive=True), *self._steps(name)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        for child in family:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                pass

    def _steps(self, name: str) -> list[psutil.Process]:
        """The daemons of the node's jobs, which are no children of the node's, and their jobs."""
        if name != "slurmd":
            return []
        steps = []
        for process in psutil.process_iter(["name"]):
            try:
                ours = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
            except psutil.Error:
                continue
            if process.info["name"] == "slurmstepd" and ours:
                steps += [process, *process.children(recursive=True)]
        return steps


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
