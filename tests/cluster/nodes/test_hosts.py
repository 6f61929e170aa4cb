"""The machines that the other tests of this folder run on: apart from each other, from this one, and gone at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import OWNER, PREFIX, Network, namespace_processes, network, remove_abandoned

pytestmark = pytest.mark.usefixtures("machines")

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "MINE": "{home}/mine"}
SSH = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")

MAKER = f"""
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children without
sys.path.insert(0, {str(Path(__file__).parent)!r})
from hosts import network
with network(["one"], {{"PATH": "/usr/bin:/bin"}}, []) as net:
    print(net.shared.parent, *(host.pid for host in net.all()), flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def net(machines: None) -> Iterator[Network]:
    with network(["one", "two"], ENVIRONMENT, []) as net:
        yield net


def ssh(net: Network, address: str, command: str) -> str:
    return net.laptop.run("ssh", "-i", str(net.key), *SSH, f"root@{address}", command).strip()


def devices() -> str:
    return subprocess.run(["ip", "-brief", "link"], check=True, capture_output=True, text=True).stdout


def test_ssh_leads_to_each_machine_by_its_address_into_its_own_home(net: Network) -> None:
    for host in net.hosts:
        said = ssh(net, host.address, "hostname; pwd; echo $MINE; bash -lc 'echo ~'").split()
        assert said == [host.name, str(host.home), f"{host.home}/mine", str(host.home)]


def test_machines_share_one_folder_and_nothing_else_of_tmp(net: Network) -> None:
    one, two = net.hosts
    one.run("sh", "-c", f"echo seen > {net.shared}/file; echo hidden > /tmp/file; echo memory > /dev/shm/file")
    assert two.run("cat", f"{net.shared}/file") == "seen\n"
    assert two.run("sh", "-c", "ls /tmp/file /dev/shm/file 2>/dev/null || true") == ""
    assert not Path("/tmp/file").exists() and not Path("/dev/shm/file").exists()


def test_a_machine_sees_its_own_processes_only(net: Network) -> None:
    seen = [name for name in net.hosts[0].run("ls", "/proc").split() if name.isdigit()]
    assert 2 < len(seen) < 10
    assert net.hosts[0].run("cat", "/proc/1/comm") == "bash\n"


def test_there_is_no_way_out_of_the_network(net: Network) -> None:
    assert net.hosts[0].run("ip", "route").split()[0] == "10.77.0.0/24"
    assert len(net.hosts[0].run("ip", "route").splitlines()) == 1
    assert "net0" not in devices() and "cable" not in devices()


def test_a_killed_machine_is_gone_with_its_processes_and_the_others_are_not(net: Network) -> None:
    with network(["left", "lost"], ENVIRONMENT, []) as other:
        left, lost = other.hosts
        namespace = os.readlink(f"/proc/{lost.pid}/ns/pid")
        lost.start("sleep", "1000", log=other.shared / "log")
        while len(lost.processes()) < 3:
            time.sleep(0.02)
        lost.kill()
        assert not namespace_processes(namespace)
        assert ssh(other, left.address, "hostname") == "left"
        with pytest.raises(subprocess.CalledProcessError):
            ssh(other, lost.address, "hostname")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_maker_that_is_ended_and_the_next_one_removes_its_folder(number: int) -> None:
    before = devices()
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert maker.stdout is not None
    folder, *pids = maker.stdout.readline().split()
    namespaces = [os.readlink(f"/proc/{pid}/ns/pid") for pid in pids]
    remove_abandoned()
    assert (Path(folder) / OWNER).exists(), "a folder in use was taken away"
    maker.send_signal(number)
    maker.wait(30)
    deadline = time.monotonic() + 30
    while any(namespace_processes(namespace) for namespace in namespaces) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(namespace_processes(namespace) for namespace in namespaces)
    remove_abandoned()
    assert Path(folder).name.startswith(PREFIX) and not Path(folder).exists()
    assert devices() == before
