#!/usr/bin/env python3
"""Carries out a Dockerfile where there is no Docker: its COPYs and RUNs in order, below a folder in place of /.

    docker/rehearse.py docker/Dockerfile ROOT            every path of the Dockerfile lies below the folder ROOT
    docker/rehearse.py docker/Dockerfile ROOT --chroot   ROOT holds a whole Debian with Python 3.11; as root

So it shows that each step finds the files that were copied before it, and no others, that requirements install without
the code, and that the user who is not root can work with what root has installed. Without --chroot, Debian's packages
are those of this machine (apt-get only says what it would do), and /etc is empty but for the user.
"""

import argparse
import fnmatch
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction's word and the rest of it, on one line."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(word.upper(), rest.strip()) for word, rest in lines]


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a path (or what it lies in) out; the last pattern that fits says so."""
    out = False
    for pattern in patterns:
        bare = pattern.removeprefix("!").strip("/")
        parts = path.split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        names = parts if bare.startswith("**/") else []
        if any(fnmatch.fnmatchcase(p, bare) for p in above) or any(fnmatch.fnmatchcase(n, bare[3:]) for n in names):
            out = not pattern.startswith("!")
    return out


def sent(source: str) -> list[Path]:
    """The files that COPY takes of a source, as Docker would be sent them."""
    lines = (TREE / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line.strip() and not line.startswith("#")]
    place = TREE / source
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return [path for path in files if not ignored(path.relative_to(TREE).as_posix(), patterns)]


class Rehearsal:
    """What the instructions so far have set: the folder, the user, the environment."""

    def __init__(self, root: Path, *, chroot: bool) -> None:
        self.root, self.chroot = root.resolve(), chroot
        self.folder, self.user = "/", 0
        self.environment = {
            "PATH": os.environ["PATH"] if not chroot else "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        }
        if not chroot:
            kept = ("UV_CACHE_DIR", "PIP_CACHE_DIR", "PIP_CERT", "SSL_CERT_FILE", "PYTHON", "LANG")
            self.environment |= {name: os.environ[name] for name in kept if name in os.environ}
            self.environment |= {"KD_ROOT": str(self.root), "KD_DRY_RUN": "1"}

    def below(self, path: str) -> str:
        """An absolute path of the image, as one of this machine."""
        return path if self.chroot or not path.startswith("/") else str(self.root) + path

    def filled(self, text: str) -> str:
        return string.Template(text).safe_substitute(self.environment)

    def set(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            value = self.filled(value)
            old = self.environment.get("PATH", "") if name == "PATH" else None
            new = value.removesuffix(f":{old}") if old else value
            self.environment[name] = f"{self.below(new)}:{old}" if old else self.below(value)

    def copy(self, rest: str) -> None:
        *sources, target = shlex.split(rest)
        for source in sources:
            files = sent(source)
            if not files:
                sys.exit(f"COPY {source}: nothing is sent; .dockerignore keeps it out, or it is not there")
            for file in files:
                inside = file.relative_to(TREE / source).as_posix() if file != TREE / source else file.name
                place = Path(f"{self.root}{target}") / inside
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)

    def run(self, rest: str) -> None:
        script, *args = shlex.split(self.filled(rest))
        command, where = [self.below(script), *args], self.below(self.folder)
        if self.chroot:
            as_user = [f"--userspec={self.user}:{self.user}"] if self.user else []
            inside = f'cd {shlex.quote(self.folder)} && exec "$@"'
            command, where = ["chroot", *as_user, str(self.root), "bash", "-c", inside, "bash", *command], None
        print(f"RUN {rest}", flush=True)
        other = {} if self.chroot or not self.user else self._as_user()
        done = subprocess.run(command, cwd=where, env=self.environment, check=False, **other)
        if done.returncode:
            sys.exit(f"RUN {rest}: exit status {done.returncode}")

    def _as_user(self) -> dict:
        """Arguments to run as the image's user, where this machine lets us and that user can reach Python."""
        python = Path(self.environment["VIRTUAL_ENV"], "bin/python").resolve()
        closed = [place for place in (*self.root.parents, *python.parents) if not place.stat().st_mode & 0o001]
        if os.geteuid() == 0 and not closed:
            return {"user": self.user, "group": self.user, "extra_groups": []}
        why = f"{closed[0]} is closed to others" if closed else "this is not root"
        print(f"  (as user {os.geteuid()} and not as {self.user}: {why})")
        self.environment["KD_ROOT_TOO"] = "1"
        return {}

    def carry_out(self, dockerfile: Path) -> None:
        for word, rest in instructions(dockerfile):
            if word == "ARG":
                name, _, default = rest.partition("=")
                self.environment[name] = os.environ.get(f"ARG_{name}", default)
            elif word == "ENV":
                self.set(rest)
            elif word == "WORKDIR":
                self.folder = rest
                Path(f"{self.root}{rest}").mkdir(parents=True, exist_ok=True)
            elif word == "USER":
                self.user = int(rest.partition(":")[0])
            elif word == "COPY":
                self.copy(rest)
            elif word == "RUN":
                self.run(rest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--chroot", action="store_true")
    given = parser.parse_args()
    given.root.mkdir(parents=True, exist_ok=True)
    Rehearsal(given.root, chroot=given.chroot).carry_out(given.dockerfile)
