"""A small network of machines on this one: each a set of Linux namespaces with its own address, processes, /tmp and home, and sshd.

Nothing of it can outlive the process that made it, whatever ends that: a machine's first process is killed by the kernel with
its parent, everything else on the machine dies with its first process, and network devices and mounts with the last process.
The machine that runs the tests gets no address, no route and no mount of it.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TOOLS = ("ip", "nsenter", "rsync", "setpriv", "ssh", "ssh-keygen", "unshare")
SSHD = "/usr/sbin/sshd"  # refuses to start by another name
NETWORK, LAPTOP_NUMBER = "10.77.0", 254
START_SECONDS = 60.0
PREFIX, OWNER = "gkd_nodes_", "owner"
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")

BOOT = r"""
set -eu
name=$1 address=$2 folder=$3 device=$4
hostname "$name"
mount -t tmpfs -o size=1g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/shadow" /etc/shadow
while read -r path; do mount --bind "$path" "$folder/tmp/${path#/tmp/}"; done < "$folder/visible"
mount --rbind "$folder/tmp" /tmp
ip link set lo up
if [ "$device" = bridge ]; then ip link add net0 type bridge; fi
until ip link show net0 >/dev/null 2>&1; do sleep 0.05; done
ip address add "$address/24" dev net0
ip link set net0 up
touch /tmp/booted
"""
"""What a machine's first process does; the folder is its own, below the network's."""


def unavailable() -> str:
    """Why this machine cannot hold such a network, or nothing."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root, to make network namespaces"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    lacking += [] if Path(SSHD).exists() else ["sshd"]
    if lacking:
        return f"needs {', '.join(lacking)} (Debian: apt-get install openssh-server rsync iproute2 util-linux)"
    attempt = "mount -t tmpfs tmpfs /run && ip link add net0 type bridge && ip link add net1 type veth peer name net2"
    trial = subprocess.run(["unshare", *NAMESPACES, "--fork", "sh", "-c", attempt], capture_output=True, text=True)
    return f"may not make namespaces here: {trial.stderr.strip()}" if trial.returncode else ""


@dataclass
class Host:
    """One machine. ``pid`` is its first process as seen from outside."""

    name: str
    address: str
    folder: Path
    holder: subprocess.Popen[bytes]
    environment: dict[str, str] = field(default_factory=dict)
    pid: int = 0

    @property
    def home(self) -> Path:
        """Of its only user, root."""
        return self.folder / "home"

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line that runs ``words`` on the machine."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        enter = ["nsenter", "--target", str(self.pid), *NAMESPACES, f"--wd={self.home}"]
        return [*enter, "env", "-i", *variables, *words]

    def run(self, *words: str, seconds: float = 600.0) -> str:
        """Run a command on the machine; what it prints. Raises CalledProcessError, with the output in its notes."""
        done = subprocess.run(
            self.command(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=seconds,
        )  # fmt: skip
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, words, done.stdout)
            error.add_note(done.stdout)
            raise error
        return done.stdout

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command on the machine; output goes to ``log``."""
        with log.open("wb") as out:
            return subprocess.Popen(self.command(words), stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def processes(self) -> dict[int, str]:
        """Pid outside -> command line, of everything that runs on the machine."""
        with suppress(FileNotFoundError):
            return namespace_processes(os.readlink(f"/proc/{self.pid}/ns/pid"))
        return {}

    def kill(self) -> None:
        """Pull the plug: every process dies at once, the network device with them. Returns when all are gone."""
        if self.pid:
            with suppress(ProcessLookupError):
                first = os.pidfd_open(self.pid)
                with suppress(ProcessLookupError):
                    os.kill(self.pid, 9)
                select.select([first], [], [], START_SECONDS)  # readable once the namespace is empty
                os.close(first)
        self.holder.kill()
        self.holder.wait()


@dataclass
class Network:
    """The machines, and what they all see.

    Attributes:
        laptop: the machine of whoever runs ``ray up``; the others hang on its bridge.
        hosts: the machines of the cluster.
        shared: a folder that all see, at the same path.
        key: private ssh key that opens all hosts.
    """

    laptop: Host
    hosts: list[Host]
    shared: Path
    key: Path

    def all(self) -> list[Host]:
        """Every machine."""
        return [self.laptop, *self.hosts]


@contextmanager
def network(names: Sequence[str], environment: Mapping[str, str], visible: Sequence[Path]) -> Iterator[Network]:
    """Machines of these names beside a laptop, on 10.77.0.0/24, in a folder that is removed at the end.

    Args:
        names: of the hosts; their addresses are 10.77.0.1, ...
        environment: variables of every shell and command on every machine; ``{home}`` is the machine's.
        visible: folders that every machine sees; what lies outside /tmp and the home is seen anyway.
    """
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    machines: list[Host] = []
    owner = (folder / OWNER).open("w")
    fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        (folder / "shared").mkdir()
        key = folder / "laptop" / "key"
        _make_key(key)
        seen = [*visible, folder / "shared"]
        gateway = f"{NETWORK}.{LAPTOP_NUMBER}"
        laptop = _boot("laptop", gateway, gateway, folder, environment, seen, machines)
        for number, name in enumerate(names, 1):
            host = _boot(name, f"{NETWORK}.{number}", gateway, folder, environment, seen, machines)
            _plug_in(host, laptop, number)
        for host in machines:
            _wait_until_booted(host)
        yield Network(laptop, machines[1:], folder / "shared", key)
    finally:
        for host in reversed(machines):
            host.kill()
        shutil.rmtree(folder, ignore_errors=True)
        owner.close()


def remove_abandoned() -> None:
    """Remove the folders of networks whose makers were killed: they can be locked again. All else of such a network is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / OWNER).open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _make_key(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "one test", "-f", str(path)], check=True)


def _boot(
    name: str,
    address: str,
    gateway: str,
    base: Path,
    environment: Mapping[str, str],
    visible: Sequence[Path],
    machines: list[Host],
) -> Host:
    """Start a machine's first process; it waits for its network device."""
    folder = base / name
    variables = {key: value.format(home=folder / "home") for key, value in environment.items()}
    _furnish(folder, base, variables, visible)
    is_laptop = address == gateway
    last = "exec sleep infinity" if is_laptop else f"{SSHD} -D -f {folder}/sshd_config & wait"
    (folder / "boot").write_text(BOOT + last)
    arguments = [name, address, str(folder), "bridge" if is_laptop else "cable"]
    unshare = ["unshare", *NAMESPACES, "--fork", "--kill-child=KILL", "--mount-proc", "--propagation=private"]
    with (folder / "boot.log").open("wb") as log:
        command = ["setpriv", "--pdeathsig=KILL", *unshare, "bash", str(folder / "boot"), *arguments]
        holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    host = Host(name, address, folder, holder, {"HOME": str(folder / "home"), **variables})
    machines.append(host)
    host.pid = _first_process(holder)
    return host


def _furnish(folder: Path, base: Path, environment: Mapping[str, str], visible: Sequence[Path]) -> None:
    """The files of a machine: its home with a login shell's variables, users, sshd's settings and host key, its /tmp."""
    home = folder / "home"
    for path in (home / ".ssh", folder / "tmp"):
        path.mkdir(parents=True)
    folder.chmod(0o755)
    lines = {name: f"export {name}='{value}'\n" for name, value in environment.items()}
    (home / ".bash_profile").write_text("".join(lines.values()))
    lines.pop("PATH", None)  # which `ray exec` would set back: it reads this file after the other one
    (home / ".bashrc").write_text("".join(lines.values()))
    (home / ".ssh" / "authorized_keys").write_text((base / "laptop" / "key.pub").read_text())
    users = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in users if not line.startswith("root:")]
    (folder / "passwd").write_text("\n".join([f"root:x:0:0:root:{home}:/bin/bash", *others, ""]))
    (folder / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    _make_key(folder / "host_key")
    settings = [
        f"HostKey {folder}/host_key", "PidFile none", "UsePAM no", "PermitRootLogin prohibit-password",
        "PasswordAuthentication no", "StrictModes no", "PrintMotd no",
    ]  # fmt: skip
    (folder / "sshd_config").write_text("\n".join([*settings, ""]))
    hidden = [path for path in (folder, *visible) if path.is_relative_to("/tmp")]  # behind the machine's own /tmp
    for path in hidden:
        (folder / "tmp" / path.relative_to("/tmp")).mkdir(parents=True, exist_ok=True)
    (folder / "visible").write_text("".join(f"{path}\n" for path in hidden))


def _first_process(holder: subprocess.Popen[bytes]) -> int:
    """Pid of ``unshare``'s child."""
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and holder.poll() is None:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise RuntimeError(f"a machine did not start: {holder.args}")


def _plug_in(host: Host, laptop: Host, number: int) -> None:
    """Lay a cable from the host to the laptop's bridge."""
    inside = ["nsenter", "--target", str(laptop.pid), "--net", "ip", "link"]
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run([*inside, "show", "net0"], capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.05)
    cable = f"cable{number}"
    ends = ["type", "veth", "peer", "name", "net0", "netns", str(host.pid)]
    subprocess.run([*inside, "add", cable, *ends], check=True)
    subprocess.run([*inside, "set", cable, "master", "net0", "up"], check=True)


def _wait_until_booted(host: Host) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (host.folder / "tmp" / "booted").exists():
        if host.holder.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{host.name} did not start: {(host.folder / 'boot.log').read_text()}")
        time.sleep(0.05)


def namespace_processes(namespace: str) -> dict[int, str]:
    """Pid -> command line of the processes in a pid namespace, named as in ``/proc/PID/ns/pid``."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if os.readlink(entry / "ns" / "pid") == namespace:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found
