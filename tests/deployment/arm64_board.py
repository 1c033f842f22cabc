"""A 64-bit ARM computer for tests: Debian and the runtimes' wheels under QEMU's full-system emulation, behind ssh.

Its whole root file system is an initramfs, so every start begins with the same files and nothing is left afterwards.
Emulating single programs instead (qemu-user) does not do: the runtimes crash there reading the CPU description.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deployment.test_hosts import free_port, make_key

# Programs and the Debian packages they are in.
PROGRAMS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mmdebstrap": "mmdebstrap",
    "bsdtar": "libarchive-tools",
    "ssh": "openssh-client",
}
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
WHEELS = ("numpy", "ai-edge-litert", "onnxruntime")
SITE = "usr/local/lib/python3.11/dist-packages"
SUITE = "bookworm"
GLIBC_MINOR = 36  # its C library is 2.36: wheels may ask for as much
DEBIAN = ("linux-image-cloud-arm64", "python3", "libstdc++6", "openssh-server")
DEBIAN += ("coreutils", "dash", "iproute2", "kmod", "mount", "tar")
LEFT_OUT = ("./boot", "./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/perl")
MEMORY_MB = 3072  # half of it can be files; the unpacked system takes 430 MB
KEYS = "opt/tledge.keys"
READY = "Server listening on 0.0.0.0"
BOOT_S = 1800.0  # seconds; 12 to 20 on a machine with time for it

# The packages are unpacked, not configured, which would have to run under emulation: this is all of it that is needed.
INIT = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run/sshd
mount -t devpts pts /dev/pts
echo "board: $(uname -srm)"
depmod -a
modprobe -a virtio_mmio virtio_net qemu_fw_cfg
tar -xf /sys/firmware/qemu_fw_cfg/by_name/{KEYS}/raw -C /
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
exec /usr/sbin/sshd -D -e -f /etc/sshd.conf
"""
FILES = {
    "init": INIT,
    "etc/passwd": "root:*:0:0:root:/root:/bin/sh\nsshd:*:100:65534::/run/sshd:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/sshd.conf": "HostKey /keys/host\nAuthorizedKeysFile /keys/user.pub\nStrictModes no\nUsePAM no\n"
    "PasswordAuthentication no\nPidFile none\n",
}
FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root")


@dataclass(frozen=True)
class Image:
    """A kernel and the root file system that goes with it."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Board:
    """A running computer; `url` and `config` are what `tledge bench --on` takes, `log` is its console."""

    url: str
    config: Path
    log: Path

    def run(self, command: str, given: bytes = b"") -> str:
        """What a shell command there prints on stdout."""
        ssh = ["ssh", "-T", "-F", str(self.config), "-o", "BatchMode=yes", self.url, command]
        done = subprocess.run(ssh, input=given, capture_output=True, timeout=1800, check=False)
        if done.returncode:
            raise RuntimeError(f"{command} ended with code {done.returncode}: {done.stderr.decode()[-2000:]}")
        return done.stdout.decode()


def missing_packages() -> list[str]:
    """Debian packages to install before there can be a board."""
    return [package for program, package in PROGRAMS.items() if shutil.which(program) is None]


def build_image(cache: Path) -> Image:
    """Make the image, or take the one in `cache` that was made by the same code of the same versions.

    Raises:
        RuntimeError: a program failed, for instance because a registry cannot be reached.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes() + CONSTRAINTS.read_bytes()).hexdigest()[:16]
    made = cache / f"image-{digest}"
    image = Image(made / "vmlinuz", made / "initrd")
    if made.is_dir():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="image-", dir=cache) as folder:
        work = Path(folder)
        include = f"--include={','.join(DEBIAN)}"
        run(["mmdebstrap", "--architectures=arm64", "--variant=extract", include, SUITE, work / "root.tar"])
        root = work / "root"
        for name in FOLDERS:
            (root / name).mkdir(parents=True)
        for name, content in FILES.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(content)
        (root / "init").chmod(0o755)
        install_wheels(root / SITE)
        (work / "image").mkdir()
        left_out = [part for path in LEFT_OUT for part in ("--exclude", path)]
        owner = ["--uid", "0", "--gid", "0"]
        archive = ["bsdtar", "--format", "newc", *owner, "-cf", work / "image" / "initrd", *left_out]
        run([*archive, f"@{work / 'root.tar'}", "-C", root, "."])
        run(["bsdtar", "-xf", work / "root.tar", "-C", work, "./boot/vmlinuz-*"])
        next((work / "boot").glob("vmlinuz-*")).rename(work / "image" / "vmlinuz")
        for old in cache.glob("image-*"):
            if old != work:
                shutil.rmtree(old)
        (work / "image").rename(made)
    return image


def install_wheels(site: Path) -> None:
    """Unpack the runtimes for ARM, in the versions that are tested here."""
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC_MINOR + 1)]
    platforms = [part for tag in ("manylinux2014_aarch64", *tags) for part in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", site, "--python-version", "3.11"]
    run([*pip, "--only-binary=:all:", *platforms, "-c", CONSTRAINTS, *WHEELS])


@contextmanager
def boot(image: Image, cpu: str, folder: Path) -> Iterator[Board]:
    """Start a computer with two cores of a kind (`-cpu` of QEMU) and new keys; it ends with the block.

    Raises:
        RuntimeError: it does not come up.
    """
    port, log, said = free_port(), folder / "console.log", folder / "qemu.log"
    host_key = make_key(folder / "host")
    make_key(folder / "user")
    with tarfile.open(folder / "keys.tar", "w") as keys:
        for name in ("host", "user.pub"):
            keys.add(folder / name, f"keys/{name}", filter=owned_by_root)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "config").write_text(
        f"Host *\nIdentityFile {folder / 'user'}\nIdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {folder / 'known_hosts'}\nGlobalKnownHostsFile none\n"
    )
    machine = ["-M", "virt,gic-version=max", "-accel", "tcg", "-cpu", cpu, "-smp", "2", "-m", str(MEMORY_MB)]
    devices = ["-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{log}"]
    # restrict=on: from there, nothing can be reached.
    network = ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"]
    network += ["-device", "virtio-net-device,netdev=net"]
    system = ["-kernel", image.kernel, "-initrd", image.initrd, "-append", "console=ttyAMA0 quiet panic=-1"]
    system += ["-fw_cfg", f"name={KEYS},file={folder / 'keys.tar'}"]
    with said.open("wb") as complaints:
        command = ["qemu-system-aarch64", *machine, *devices, *network, *system]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=complaints, stderr=complaints)
    try:
        deadline = time.monotonic() + BOOT_S
        while not log.is_file() or READY not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                console = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
                raise RuntimeError(f"no board came up on {cpu}: {said.read_text()[-1000:]}{console}")
            time.sleep(0.5)
        yield Board(f"ssh://root@127.0.0.1:{port}", folder / "config", log)
    finally:
        process.kill()
        process.wait()


def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member of an archive as sshd wants it: readable by root alone."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o600
    return member


def run(command: Sequence[str | Path]) -> None:
    """Run a program; what it said is shown when it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
