"""SLURM on this machine, from Debian's packages and without systemd: one node, with two GPUs that are none.

`python tests/cluster.py FOLDER` starts it and stops it at Ctrl-C; meanwhile `sbatch` and a Snakemake with
`--profile workflow/profiles/slurm` find it.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGES = ("slurm-wlm", "munge")
# Steps of a job look for their configuration here: Snakemake's SLURM plugin takes SLURM_CONF from their environment.
SYSTEM_CONFIG = Path("/etc/slurm")

# The node has more cores and memory than the machine, so that several small jobs run at once.
CONFIG = """\
ClusterName=rpg
SlurmctldHost={node}({address})
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
# A job that is put back in the queue waits as long as credentials live.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Without cgroups, memory is looked at once a second, and a job that has more than it asked for is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=15
SchedulerParameters=sched_min_interval=0,bf_interval=2
GresTypes=gpu,seat
NodeName={node} NodeAddr={address} CPUs=32 RealMemory=64000 Gres=gpu:2,seat:1 State=UNKNOWN
PartitionName=gpu Nodes={node} PriorityTier=1 PreemptMode=OFF Default=YES
PartitionName=cpu Nodes={node} PriorityTier=1 PreemptMode=OFF
# A job of the second takes the seat of one in the first.
PartitionName=spare Nodes={node} PriorityTier=1
PartitionName=urgent Nodes={node} PriorityTier=2
"""
GENERIC = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\nName=seat Count=1\n"


def install() -> str | None:
    """Install the packages if they are missing; why there can be no cluster here, or None."""
    if os.getuid() != 0:
        return "only root can start SLURM's daemons"
    if not shutil.which("slurmctld") or not shutil.which("munged"):
        if not shutil.which("apt-get"):
            return "no apt-get to install " + " and ".join(PACKAGES)
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, text=True)
            if done.returncode:
                return f"apt-get {command[0]} failed: {done.stderr.strip().splitlines()[-1]}"
    if (SYSTEM_CONFIG / "slurm.conf").exists():
        return f"{SYSTEM_CONFIG}/slurm.conf: another SLURM is set up on this machine"
    return None


@contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A cluster whose configuration, state and logs lie in `folder`; all of its processes end with the block."""
    node = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    # munged wants a folder that no one else can write to.
    folder.chmod(0o755)
    config = CONFIG.format(folder=folder, node=node, address="127.0.0.1", ports=_free_ports(2))
    for name, text in (("slurm.conf", config), ("gres.conf", GENERIC)):
        (folder / name).write_text(text)
        (SYSTEM_CONFIG / name).unlink(missing_ok=True)
        (SYSTEM_CONFIG / name).symlink_to(folder / name)
    files = [f"--{name}={folder}/munge.{suffix}" for name, suffix in (("key-file", "key"), ("socket", "socket"))]
    files += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    daemons: list[subprocess.Popen] = []
    try:
        daemons.append(_start(folder, "munged", "--foreground", "--force", *files))
        wait_for((folder / "munge.socket").exists)
        daemons.append(_start(folder, "slurmctld", "-D", "-c"))
        daemons.append(_start(folder, "slurmd", "-D", "-N", node))
        wait_for(lambda: "idle" in slurm("sinfo", "--noheader", "--format=%T", ok=False), faults=folder)
        yield
    finally:
        try:
            if len(daemons) == 3:
                slurm("scancel", "--user=root")
                wait_for(lambda: not slurm("squeue", "--noheader"), faults=folder)
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(timeout=30)
            for name in ("slurm.conf", "gres.conf"):
                (SYSTEM_CONFIG / name).unlink()


def slurm(*command: str, ok: bool = True) -> str:
    """The output of one of SLURM's commands."""
    return subprocess.run(command, capture_output=True, text=True, check=ok).stdout.strip()


def wait_for(found: Callable[[], Any], seconds: float = 60, faults: Path | None = None) -> Any:
    """What `found` gives as soon as it is true; AssertionError after so many seconds, with the logs in `faults`."""
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            logs = [path.read_text(errors="replace")[-2000:] for path in sorted((faults or Path()).glob("*.log"))]
            raise AssertionError("\n".join([f"not within {seconds} seconds", *logs]))
        time.sleep(0.1)
    return value


def _start(folder: Path, *command: str) -> subprocess.Popen:
    with (folder / f"{command[0]}.out").open("w") as file:
        # Ctrl-C is for this process, which still needs the daemons to end the jobs.
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    if reason := install():
        sys.exit(reason)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    with cluster(Path(sys.argv[1]).absolute()):
        print("ready", flush=True)
        signal.pause()
