"""Where a node of a job is and how its ranks reach each other, by address: names may not resolve, or only slowly."""

import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lamae.base import files
from lamae.base.awake import patiently
from lamae.base.errors import LamaeError
from lamae.base.place import LOOPBACK, Place
from lamae.base.processes import free_port
from lamae.cluster.submission import RENDEZVOUS_NAME, last_published

RENDEZVOUS_TIMEOUT_S = 300.0
_SIOCGIFADDR = 0x8915  # ioctl: the IPv4 address of a network interface (netdevice(7))


@dataclass(frozen=True)
class Node:
    """This node among those of the job."""

    job_id: str
    restart: int
    number: int
    num_nodes: int
    host: str


def find_node(environ: Mapping[str, str]) -> Node:
    """What Slurm says of this node (one task per node, or the batch script), else the only node of a local job."""
    if "SLURM_JOB_ID" not in environ or environ.get("SUBMITIT_EXECUTOR") == "local":
        return Node(environ.get("SUBMITIT_LOCAL_JOB_ID", str(os.getpid())), 0, 0, 1, socket.gethostname())
    array_job = environ.get("SLURM_ARRAY_JOB_ID")
    return Node(
        job_id=f"{array_job}_{environ['SLURM_ARRAY_TASK_ID']}" if array_job else environ["SLURM_JOB_ID"],
        restart=int(environ.get("SLURM_RESTART_COUNT", 0)),
        number=int(environ["SLURM_NODEID"]),
        num_nodes=int(environ["SLURM_JOB_NUM_NODES"]),
        host=environ.get("SLURMD_NODENAME", socket.gethostname()),
    )


@dataclass(frozen=True)
class Rendezvous:
    """Where rank 0 of an attempt listens, and what ``last_published`` gave before the attempt."""

    address: str
    port: int
    published_before: tuple[int, int] | None


def meet(attempt: Path, node: Node, *, run_dir: str | None) -> Rendezvous:
    """Node 0 chooses a fresh port and writes it into the attempt's folder for the others.

    A restart has an attempt of its own, so nobody waits at the port of an attempt that is over.
    Raises LamaeError where node 0 does not turn up.
    """
    path = attempt / RENDEZVOUS_NAME
    if node.number == 0:
        address = LOOPBACK if node.num_nodes == 1 else own_address(node.host)
        rendezvous = Rendezvous(address, free_port(""), last_published(run_dir))
        files.write_json(path, rendezvous.__dict__)
        return rendezvous
    for _ in patiently(RENDEZVOUS_TIMEOUT_S, poll_s=0.2):
        values = files.try_read_json(path)
        if values:
            return Rendezvous(**values)
    raise LamaeError(f"{path}: not there after {RENDEZVOUS_TIMEOUT_S:.0f} s; is this folder shared between the nodes?")


def own_address(host: str) -> str:
    """An address of this machine that other nodes reach: what its name stands for, else what Slurm launched from."""
    try:
        address = socket.gethostbyname(host)
        if not address.startswith("127."):  # many systems give their own name a loopback address
            return address
    except OSError:
        pass
    address = os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "")
    if not address:
        raise LamaeError(f"{host}: its name has no address other nodes could reach; add it to DNS or /etc/hosts")
    return address


def interface_towards(address: str) -> str | None:
    """The network interface whose address this machine uses to reach ``address``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing: only asks the routing table
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(reply[20:24]) == own:
                return name
    return None


def rank_environment(node: Node, rendezvous: Rendezvous, *, local_rank: int, ranks_per_node: int) -> dict[str, str]:
    """The variables by which a trainer finds its place and the network between the nodes."""
    rank, world_size = node.number * ranks_per_node + local_rank, node.num_nodes * ranks_per_node
    place = Place(rank, local_rank, world_size, ranks_per_node, rendezvous.address, rendezvous.port)
    # Left alone, gloo binds to whatever the host's name resolves to, which may be loopback.
    interface = interface_towards(rendezvous.address)
    return place.environment() | ({"GLOO_SOCKET_IFNAME": interface} if interface else {})
