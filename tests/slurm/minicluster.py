"""A real Slurm cluster of several nodes on one Linux machine, without systemd: what tests/slurm runs against.

Everything lives in one private set of namespaces (pid, mount, network, host name, ipc) whose first process is a shell
that reads a pipe held by this process: when the pipe closes or that shell is killed, every daemon, job, link and mount
is gone. Each node is a further set (pid, mount, network, host name) with its own address, joined to a bridge that
leads nowhere else; powering a node off kills its first process and with it everything on the node at once.

Needs root and Debian's packages ``slurm-wlm`` and ``munge``; ``missing()`` says what lacks.

From a shell, to try commands by hand::

    python tests/slurm/minicluster.py /tmp/mini        # a shell on the login host; leaving it removes the cluster
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

INSTALL = "as root, .ci/install-slurm"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "unshare", "nsenter", "ip")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETWORK = "10.77.0"
LOGIN = "login"
GPUS = 2

# The shell is pid 1 of its namespace: it must reap orphans (bash does) and end when nobody holds its pipe any more.
FIRST_PROCESS = "exec 3<&0; while read -r _ <&3; do :; done"


def missing() -> str | None:
    """Why no cluster can be started on this machine and what to do, or None."""
    if sys.platform != "linux":
        return "needs Linux namespaces"
    if os.geteuid() != 0:
        return "needs root: it makes network and pid namespaces"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    if lacking:
        return f"{', '.join(lacking)} not found: {INSTALL}"
    probe = subprocess.run(["unshare", "--pid", "--fork", "--mount", "--net", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        return f"namespaces are not allowed here: {probe.stderr.strip()}"
    return None


def wait_until(
    condition: Callable[[], Any],
    what: str,
    *,
    timeout_s: float,
    poll_s: float = 0.3,
    describe: Callable[[], str] | None = None,
) -> Any:
    """The first true value of ``condition()``; AssertionError with ``describe()`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            detail = f"\n{describe()}" if describe else ""
            raise AssertionError(f"{what}: not within {timeout_s:.0f} s{detail}")
        time.sleep(poll_s)


class MiniCluster:
    """A controller-and-login host and nodes n1, n2, …; a context manager.

    base: directory for configuration, logs and state, removed at the end.
    """

    def __init__(self, base: Path, *, num_nodes: int = 3, cpus: int = 4, memory_mb: int = 16000, kill_wait_s: int = 15):
        self.base = base.absolute()
        self.nodes = [f"n{i + 1}" for i in range(num_nodes)]
        self.cpus, self.memory_mb, self.kill_wait_s = cpus, memory_mb, kill_wait_s
        self._first: subprocess.Popen[bytes] | None = None
        self._first_pid = 0
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "MiniCluster":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what tests do with it -------------------------------------------------------------------------------------

    def run(
        self,
        command: Sequence[str],
        *,
        node: str | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> str:
        """Run a command on the login host, or on a node; its standard output."""
        inside = self._inside(command, node=node, cwd=cwd)
        done = subprocess.run(inside, env=self.environment(env), capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def popen(self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any) -> subprocess.Popen:
        """Start a command on the login host."""
        return subprocess.Popen(self._inside(command), env=self.environment(env), **kwargs)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        path = f"{SYSTEM_PATH}:{os.environ.get('PATH', '')}"
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self._conf), **(extra or {})}

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of ``scontrol show job``; empty where the controller has forgotten the job."""
        text = self.run(["scontrol", "--oneliner", "show", "job", job_id], check=False)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def node_states(self) -> dict[str, str]:
        lines = self.run(["sinfo", "--noheader", "--Node", "--partition=debug", "--format=%N %T"]).split("\n")
        return dict(line.split() for line in lines if line)

    def wait_idle(self, *, timeout_s: float = 60) -> None:
        """Wait until no job is left, finishing ones included, and every node is ready for the next."""
        wait_until(
            lambda: not self.run(["squeue", "--noheader"]).strip() and set(self.node_states().values()) == {"idle"},
            "all nodes idle and no job left",
            timeout_s=timeout_s,
            describe=lambda: self.run(["squeue"]) + self.run(["sinfo", "--Node", "--long"]),
        )

    def power_off(self, node: str) -> None:
        """Kill everything on a node at once; the controller is not told."""
        process = self._running.pop(node)
        first = _first_process_below(process.pid)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        process.wait()

    def power_on(self, node: str) -> None:
        self._boot(node)

    def cut_off(self, node: str) -> None:
        """Take a node off the network; what runs on it goes on without knowing."""
        self.run(["ip", "link", "set", f"{node}h", "down"])

    def reconnect(self, node: str) -> None:
        self.run(["ip", "link", "set", f"{node}h", "up"])

    def logs(self, *, last_chars: int = 3000) -> str:
        """The end of every daemon's log, for a failing test's message."""
        parts = [
            f"== {path.name}\n{path.read_text(errors='replace')[-last_chars:]}" for path in sorted(self._log.iterdir())
        ]
        return "\n".join(parts)

    # -- how it is made --------------------------------------------------------------------------------------------

    @property
    def _conf(self) -> Path:
        return self.base / "etc" / "slurm.conf"

    @property
    def _log(self) -> Path:
        return self.base / "log"

    def _start(self) -> None:
        self._write_configuration()
        namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--net", "--uts", "--ipc"]
        self._first = subprocess.Popen(
            ["unshare", *namespaces, "bash", "-c", FIRST_PROCESS], stdin=subprocess.PIPE, start_new_session=True
        )
        first = self._first
        self._first_pid = wait_until(lambda: _first_process_below(first.pid), "namespaces", timeout_s=10)
        self._script(self._network_script())
        self._start_munge()
        self._daemon(["/usr/sbin/slurmctld", "-D", "-i", "-c"], "slurmctld.out")
        for node in self.nodes:
            self._boot(node)
        wait_until(self._ready, "nodes idle", timeout_s=60, describe=self.logs)

    def stop(self) -> None:
        """Kill everything and remove the files; safe to call again."""
        if self._first is not None:
            if self._first_pid:
                _kill(self._first_pid)
            self._first.kill()
            self._first.wait()
            assert self._first.stdin is not None
            self._first.stdin.close()
            for process in [*self._running.values(), *self._daemons]:
                process.wait(timeout=30)
            self._first = None
        shutil.rmtree(self.base, ignore_errors=True)

    def _ready(self) -> bool:
        try:
            states = self.node_states()
        except AssertionError:  # the controller does not answer yet
            return False
        return len(states) == len(self.nodes) and set(states.values()) == {"idle"}

    def _inside(self, command: Sequence[str], *, node: str | None = None, cwd: Path | None = None) -> list[str]:
        pid = self._first_pid if node is None else _first_process_below(self._running[node].pid)
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid"]
        return ["nsenter", f"--target={pid}", *spaces, f"--wd={cwd or Path.cwd()}", *command]

    def _script(self, script: str) -> None:
        self.run(["bash", "-euc", script])

    def _daemon(self, command: Sequence[str], log: str) -> None:
        with open(self._log / log, "ab") as out:
            self._daemons.append(
                self.popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            )

    def _start_munge(self) -> None:
        key = self.base / "etc" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        run = self.base / "run"
        files = [f"--pid-file={run}/munged.pid", f"--log-file={self._log}/munged.log", f"--seed-file={run}/munge.seed"]
        self._daemon(
            ["/usr/sbin/munged", "-F", "--force", f"--key-file={key}", f"--socket={run}/munge.sock", *files],
            "munged.out",
        )
        wait_until((run / "munge.sock").exists, "munged", timeout_s=20, describe=self.logs)

    def _boot(self, node: str) -> None:
        # Not `ip netns exec`: it remounts /sys, and slurmd then finds no /sys/fs/cgroup.
        start = f"hostname {node}; /usr/sbin/slurmd -D -N {node} & wait; while :; do sleep 3600 & wait; done"
        spaces = ["--uts", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
        command = ["nsenter", f"--net=/run/netns/{node}", "unshare", *spaces, "bash", "-c", start]
        with open(self._log / f"{node}.out", "ab") as out:
            self._running[node] = self.popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _network_script(self) -> str:
        lines = [
            "mount --make-rprivate /",
            "mkdir -p /run/netns",
            "mount -t tmpfs tmpfs /run/netns",
            # Names resolve from the hosts file alone: a look-up that waits for a name server costs torch 10 s a client.
            f"mount --bind {self.base}/etc/nsswitch.conf /etc/nsswitch.conf",
            f"mount --bind {self.base}/etc/hosts /etc/hosts",
            f"hostname {LOGIN}",
            "ip link set lo up",
            f"ip link add br0 type bridge; ip address add {NETWORK}.1/24 dev br0; ip link set br0 up",
        ]
        for i, node in enumerate(self.nodes):
            lines += [
                f"ip netns add {node}",
                f"ip link add {node}h type veth peer name eth0 netns {node}",
                f"ip link set {node}h master br0 up",
                f"ip -n {node} link set lo up",
                f"ip -n {node} address add {NETWORK}.{11 + i}/24 dev eth0",
                f"ip -n {node} link set eth0 up",
            ]
        return "\n".join(lines)

    def _write_configuration(self) -> None:
        for folder in ("etc", "run", "log", "state", *(f"spool/{node}" for node in self.nodes)):
            (self.base / folder).mkdir(parents=True)
            (self.base / folder).chmod(0o755)
        addresses = {LOGIN: f"{NETWORK}.1", **{node: f"{NETWORK}.{11 + i}" for i, node in enumerate(self.nodes)}}
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        self._write("hosts", *hosts)
        self._write("nsswitch.conf", "passwd: files", "group: files", "shadow: files", "hosts: files")
        # No cgroup is used, but slurmd loads the plugin, and detecting it asks systemd.
        self._write("cgroup.conf", "CgroupPlugin=cgroup/v1", "CgroupAutomount=no")
        # Slurm counts and hands out what is called a GPU here; nothing is behind it.
        for index in range(GPUS):
            (self.base / "run" / f"gpu{index}").touch()
        self._write("gres.conf", "AutoDetect=off", f"Name=gpu File={self.base}/run/gpu[0-{GPUS - 1}]")
        munge = f"socket={self.base}/run/munge.sock,cred_expire=5"  # a requeued job waits for its credential to expire
        self._write(
            "slurm.conf",
            "ClusterName=mini",
            f"SlurmctldHost={LOGIN}({addresses[LOGIN]})",
            *("SlurmUser=root", "SlurmdUser=root"),
            *("AuthType=auth/munge", "CredType=cred/munge", f"AuthInfo={munge}"),
            *("MpiDefault=none", "SwitchType=switch/none", "TaskPlugin=task/none"),
            "ProctrackType=proctrack/linuxproc",
            *("JobAcctGatherType=jobacct_gather/none", "AccountingStorageType=accounting_storage/none"),
            *(f"StateSaveLocation={self.base}/state", f"SlurmdSpoolDir={self.base}/spool/%n"),
            *(f"SlurmctldPidFile={self.base}/run/slurmctld.pid", f"SlurmdPidFile={self.base}/run/slurmd.%n.pid"),
            *(f"SlurmctldLogFile={self._log}/slurmctld.log", f"SlurmdLogFile={self._log}/slurmd.%n.log"),
            *("SlurmctldDebug=info", "SlurmdDebug=info"),
            "SlurmdParameters=config_overrides",  # believe the processors and memory below, not the machine's
            *("ReturnToService=2", "SlurmdTimeout=10", "SlurmctldTimeout=30", f"KillWait={self.kill_wait_s}"),
            *("MinJobAge=300", "BatchStartTimeout=10", "MessageTimeout=20", "WaitTime=0", "JobRequeue=0"),
            *("SchedulerType=sched/backfill", "SelectType=select/cons_tres", "SelectTypeParameters=CR_CPU_Memory"),
            "SchedulerParameters=batch_sched_delay=0,bf_interval=2,sched_interval=2",
            "GresTypes=gpu",
            *("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE"),
            *(
                f"NodeName={node} NodeAddr={addresses[node]} CPUs={self.cpus} RealMemory={self.memory_mb}"
                f" Gres=gpu:{GPUS} State=UNKNOWN"
                for node in self.nodes
            ),
            "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=500 State=UP PriorityTier=1",
            "PartitionName=high Nodes=ALL MaxTime=INFINITE DefMemPerCPU=500 State=UP PriorityTier=10 PreemptMode=OFF",
        )

    def _write(self, name: str, *lines: str) -> None:
        (self.base / "etc" / name).write_text("\n".join(lines) + "\n")


def _first_process_below(pid: int) -> int | None:
    """The first process of the pid namespace made by process ``pid`` (nsenter, unshare); None before it is there."""
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return None
        pid = int(children[0])
        status = Path(f"/proc/{pid}/status").read_text()
        if status.split("NSpid:")[1].split("\n")[0].split()[-1] == "1":
            return pid


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    """Start a cluster, give the user a shell on its login host, and remove it when the shell ends."""
    reason = missing()
    if reason:
        sys.exit(reason)
    with MiniCluster(Path(sys.argv[1])) as cluster:
        subprocess.run(cluster._inside([os.environ.get("SHELL", "bash")]), env=cluster.environment())


if __name__ == "__main__":
    main()
