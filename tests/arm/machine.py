"""An emulated arm64 Debian 12: built once, and booted as a fresh layer for every run.

Not a virtual machine: a root folder whose binaries run under qemu-user, in a user namespace with
mounts, processes and a binary-format registration of its own. Nothing of it touches the machine
around it, and the kernel takes all of it away when the driver ends, however it ends. The network is
the host's, so 127.0.0.1 is the same on both sides.
"""

import fcntl
import os
import platform
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".arm-root"
SCRIPT: Final = Path(__file__).with_name("namespace.sh")
MIRROR: Final = "http://deb.debian.org/debian"
SUITE: Final = "bookworm"
PACKAGES: Final = "ca-certificates,sudo"
"""Beside what Debian calls minimal: what every Pi has, and what the page relies on."""
BASE_VERSION: Final = f"1 {SUITE} {PACKAGES}"
"""Of what `_build` makes; a cached system with another one is built anew."""
QEMU: Final = "/usr/bin/qemu-aarch64-static"
REGISTRATION: Final = (
    r":headwater-arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:"
    rf"{QEMU}:POCF"
)
"""ELF, 64 bits, AArch64; C lets sudo work, F keeps the interpreter open over chroot."""
REGISTERED: Final = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
NUM_IDS: Final = 65_536
BUILD_TIMEOUT_S: Final = 1_800
START_TIMEOUT_S: Final = 20
REACH_TIMEOUT_S: Final = 10
REACHED: Final = (f"{MIRROR}/dists/{SUITE}/Release", "https://pypi.org/simple/cbor2/")
PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class MachineError(Exception):
    """A step failed; the message says which and with what words."""


def why_not(folder: Path = FOLDER) -> str | None:
    """What this machine lacks to be a Pi's host, in one line; None if it can."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "needs root on Linux, for namespaces and other user ids: sudo make arm"
    tools = ["unshare", "nsenter", "debootstrap"]
    if _is_emulated():
        tools.append(QEMU)
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"needs {missing[0]}: apt-get install debootstrap qemu-user-static util-linux"
    try:
        with Namespace(folder):
            pass
    except MachineError as error:
        return f"this kernel or container allows no such namespace: {error}"
    for url in REACHED:
        try:
            with urllib.request.urlopen(url, timeout=REACH_TIMEOUT_S):
                pass
        except (urllib.error.URLError, OSError) as error:
            return f"{url} is out of reach: {error}"
    return None


class Namespace:
    """Where everything runs; `with` starts it and ends all that is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pid = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        needs_registration = _is_emulated() and not REGISTERED.exists()
        command = ["unshare", "--user", "--mount", "--pid", "--fork", "--kill-child", "sh"]
        command += [str(SCRIPT), str(self.folder), REGISTRATION if needs_registration else ""]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt is the driver's to handle
        )
        try:
            self._map_ids()
            self._ask("go", answer="ready")
        except BaseException:
            self.__exit__()
            raise
        children = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children")
        self._pid = int(children.read_text().split()[0])
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._child.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def command(self, *words: str) -> list[str]:
        """`words` as root inside, on the host's files; it dies with the namespace."""
        return ["nsenter", "--target", str(self._pid), "--user", "--mount", "--pid", "--", *words]

    def boot(self) -> None:
        """Make `run/root` from the cached system."""
        self._ask("boot", answer="boot")

    def _map_ids(self) -> None:
        process = Path(f"/proc/{self._child.pid}")
        outside = os.readlink("/proc/self/ns/user")
        end_s = time.monotonic() + START_TIMEOUT_S
        try:
            while os.readlink(process / "ns/user") == outside:
                if self._child.poll() is not None or time.monotonic() > end_s:
                    raise MachineError(self._complaint())
                time.sleep(0.005)
            for name in ("uid_map", "gid_map"):
                (process / name).write_text(f"0 0 {NUM_IDS}\n")
        except OSError as error:
            raise MachineError(f"{error}; {self._complaint()}") from None

    def _ask(self, word: str, *, answer: str) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(f"{word}\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise MachineError(self._complaint()) from None
        if self._child.stdout.readline().strip() != answer:
            raise MachineError(self._complaint())

    def _complaint(self) -> str:
        self._child.kill()
        assert self._child.stderr is not None
        lines = self._child.stderr.read().strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


class Machine:
    """A booted system with the user `pi`, who may use sudo."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.root = folder / "run/root"
        """Its devices, processes and caches are mounted in the namespace alone."""
        self.work = folder / "run/work"
        """For the host's side of a run; gone after it, or before the next."""
        self.namespace = Namespace(folder)

    @property
    def home(self) -> Path:
        """The home folder of pi."""
        return self.root / "home/pi"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MachineError(f"another run is using {self.folder}") from None
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        if _read(self.folder / "base/etc/headwater-base") != BASE_VERSION:
            _build(self.folder)
        self.namespace.__enter__()
        try:
            self.namespace.boot()
            self.work.mkdir()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.namespace.__exit__()
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        self._lock.close()

    def command(self, script: str) -> list[str]:
        """`script` in a shell of the user pi, in the home folder."""
        passed = [f"{name}={value}" for name, value in os.environ.items() if name in PASSED_ON]
        return self.namespace.command(
            *("chroot", "--userspec=1000:1000", f"--groups={SUDO_GROUP}", str(self.root)),
            *("env", "-i", "HOME=/home/pi", "USER=pi", f"PATH={PATH}", "LANG=C.UTF-8", *passed),
            *("sh", "-euc", f"cd\n{script}"),
        )


PASSED_ON: Final = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
SUDO_GROUP: Final = "27"
"""Debian's number for it."""


def _is_emulated() -> bool:
    return platform.machine() != "aarch64"


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _build(folder: Path) -> None:
    """Make `folder/base`, under another name until it is whole."""
    base, half = folder / "base", folder / "base.half"
    for stale in (base, half):
        shutil.rmtree(stale, ignore_errors=True)
    (folder / "debs").mkdir(exist_ok=True)
    print("building an arm64 Debian 12; this takes minutes the first time", flush=True)
    with Namespace(folder) as namespace:
        command = ["env", "container=lxc", f"PATH={PATH}", "debootstrap", "--arch=arm64"]
        command += ["--variant=minbase", f"--include={PACKAGES}", f"--cache-dir={folder / 'debs'}"]
        _run(namespace, [*command, SUITE, str(half), MIRROR], what="debootstrap")
        _settle(half)
        setup = "useradd --create-home --shell /bin/sh --groups sudo pi\nupdate-ca-certificates"
        setup += "\ninstall -d -o pi -g pi /home/pi/.cache /home/pi/.cache/pip"
        _run(
            namespace,
            ["chroot", str(half), "env", "-i", f"PATH={PATH}", "sh", "-euc", setup],
            what="the new system's user",
        )
    (half / "etc/headwater-base").write_text(BASE_VERSION)
    half.rename(base)


def _settle(base: Path) -> None:
    """What Raspberry Pi Imager does to a card: sudo for pi, and this network's settings."""
    (base / "etc/sudoers.d/010_pi-nopasswd").write_text("pi ALL=(ALL) NOPASSWD: ALL\n")
    (base / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    (base / "etc/hostname").write_text("raspberrypi\n")
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(Path("/etc") / name, base / "etc" / name)
    for authority in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        shutil.copy(authority, base / "usr/local/share/ca-certificates")


def _run(namespace: Namespace, command: list[str], *, what: str) -> None:
    process = subprocess.Popen(
        namespace.command(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise MachineError(f"{what}: not done within {BUILD_TIMEOUT_S} s") from None
    if process.returncode:
        raise MachineError(f"{what}: " + "\n".join(said.strip().splitlines()[-5:]))
