"""Genuine NFS: a guest kernel with an NFS server, and two clients that know nothing of each other.

A client is a mount of its own, from a network namespace of its own, and a host: `on a COMMAND` and `on b COMMAND` run a
command with a hostname and a cache directory of that host. Both mount the same export as users do, with the kernel's
own times for caches. Server and clients share one kernel and one processor; their caches and connections are separate.

By hand:  python -m tests.faults.nfs 4.2 'on a kacas store /etc/hostname; ls -l /mnt/b/store/packs'
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults import uml

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3", "4.2")
SERVER = {"rpc.nfsd": "nfs-kernel-server", "rpcbind": "rpcbind", "mkfs.ext4": "e2fsprogs"}

_OPTIONS = {
    "3": "vers=3,nolock,proto=tcp,port=2049,mountproto=tcp,mountport=20048",
    "4.2": "vers=4.2",
}
_PATHS = {"3": "/mnt/export", "4.2": "/"}


def missing() -> str:
    """What the rig needs and this machine lacks, in words; "" if nothing."""
    return uml.missing(SERVER)


def run(
    version: str,
    script: str,
    *,
    memory_mib: int = 1024,
    disk: Path | None = None,
    in_memory: bool = False,
    timeout_s: float = 300,
) -> uml.Ended:
    """Run a bash script beside a server and two clients of this NFS version.

    In the script: `on a COMMAND...` and `on b COMMAND...`, the mounts $KACAS_NFS_A and $KACAS_NFS_B, `freeze a` and
    `thaw a`, which cut and mend the client's network, and `attach a`, which mounts again what was unmounted.
    What is exported is an ext4 file system, on an image of its own unless `disk` is one; or, in_memory, a tmpfs: quicker,
    but of a directory that changes meanwhile, a tmpfs of this kernel shows an NFS client not all names.
    timeout_s: for all of it; a guest needs 5 to 10 s to be ready.
    """
    with tempfile.TemporaryDirectory(prefix="kacas-export.") as place:
        if in_memory:
            mount = f"mount -t tmpfs -o size={memory_mib * 6 // 10}m tmpfs /mnt/export"
        else:
            disk = disk or _image(Path(place) / "disk")
            mount = "mount /dev/ubda /mnt/export"
        setup = _SETUP.format(
            mount=mount,
            options=_OPTIONS[version],
            source=f"10.9.0.1:{_PATHS[version]}",
            programs=shlex.quote(str(Path(sys.executable).parent)),
        )
        return uml.run(
            f"{setup}\n{script}",
            memory_mib=memory_mib,
            disks=[disk] if disk else [],
            timeout_s=timeout_s,
            environment={"KACAS_NFS_A": "/mnt/a", "KACAS_NFS_B": "/mnt/b", "PYTHONPATH": str(ROOT)},
        )


def _image(path: Path) -> Path:
    """An empty ext4 file system; the image takes what is written to it."""
    with open(path, "wb") as file:
        file.truncate(4 << 30)
    program = shutil.which("mkfs.ext4", path=f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}")
    subprocess.run([program or "mkfs.ext4", "-q", path], check=True)
    return path


# Each client mounts under its own hostname, or a server of NFSv4 takes both for one; with `nosharecache`, or the
# kernel does.
_SETUP = """
fail() {{ echo "the rig: $*"; exit 99; }}
mkdir -p /mnt/export /mnt/a /mnt/b /mnt/hosts/a /mnt/hosts/b /mnt/bin /run/rpcbind
mount -t tmpfs tmpfs /var/lib/nfs && mkdir -p /var/lib/nfs/v4recovery /var/lib/nfs/sm /var/lib/nfs/sm.bak
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
load_modules nfsd nfs nfsv3 nfsv4 veth bridge || fail "the kernel has no NFS"
{mount} && chmod 1777 /mnt/export || fail "nothing to export"
mount -t nfsd nfsd /proc/fs/nfsd
echo 10 >/proc/fs/nfsd/nfsv4gracetime
echo 10 >/proc/fs/nfsd/nfsv4leasetime
ip link set lo up
rpcbind -w
exportfs -o rw,no_root_squash,no_subtree_check,insecure,fsid=0 '*:/mnt/export'
rpc.mountd --port 20048
rpc.nfsd 4 || fail "no server"
echo Y >/proc/fs/nfsd/v4_end_grace
ip link add bridge type bridge && ip addr add 10.9.0.1/24 dev bridge && ip link set bridge up
cat >/mnt/bin/on <<'END'
#!/bin/bash
# on HOST COMMAND...: run a command as that host
export KACAS_CACHE_DIR=/mnt/hosts/$1 XDG_CONFIG_HOME=/mnt/hosts/$1 KACAS_DIR=/mnt/$1/store
exec unshare --uts bash -c 'hostname "client-$0"; exec "$@"' "$@"
END
printf '#!/bin/bash\nip link set to-$1 down\n' >/mnt/bin/freeze
printf '#!/bin/bash\nip link set to-$1 up\n' >/mnt/bin/thaw
cat >/mnt/bin/attach <<'END'
#!/bin/bash
exec on "$1" nsenter --net=/run/netns/$1 mount -t nfs -o {options},nosharecache {source} /mnt/$1
END
chmod +x /mnt/bin/*
export PATH=/mnt/bin:{programs}:$PATH
address=2
for client in a b; do
  ip netns add $client
  ip link add to-$client type veth peer name eth0 netns $client
  ip link set to-$client master bridge up
  ip -n $client addr add 10.9.0.$address/24 dev eth0
  ip -n $client link set eth0 up
  attach $client || fail "client $client could not mount"
  address=$((address + 1))
done
"""


def main() -> int:
    if words := missing():
        sys.exit(words)
    ended = run(sys.argv[1], " ".join(sys.argv[2:]))
    print(ended.output, end="")
    if ended.status is None:
        print(ended.console[-3000:], file=sys.stderr)
    return 99 if ended.status is None else ended.status


if __name__ == "__main__":
    sys.exit(main())
