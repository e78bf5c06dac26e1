"""Thousands of broken, wrong and malicious uploads: is each refused, in one line, and does nothing else happen?

    python benchmarks/hostile_uploads.py [--files 10000] [--seed 0]

Every file is a known trick or a sound one changed by chance, in turn, and goes through `Uploads.add` as from the API.
A file whose bytes were changed by chance may still be a sound one: then it may be accepted. What is a trick may never be. Job
files go through `read_spec`. Counted: tricks accepted, other exceptions than a refusal, messages that are long or hold
control characters, files outside of the store, and the memory of the process that takes the files, which is not the one that
makes them, and of those that look into them.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from hostile_files import CHANGES, SLOW_TRICKS, SOUND, TRICKS, Rng
from ratio import print_result

from nas.database import Database, insert
from nas.errors import JobError
from nas.service.blobs import Blobs
from nas.service.errors import ServiceError
from nas.service.refusal import UploadRefused
from nas.service.schema import users
from nas.service.specs import read_spec
from nas.service.uploads import Uploads

LONGEST_MESSAGE = 600
SLOW_EVERY = 200
Upload = tuple[str, str, bytes, bool]
"""What it is, its kind, its bytes, and whether it may be a sound file."""
SPECS = (
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b]\n",
    b"!!python/object/apply:os.system ['touch owned']\n",
    b"kind: run\njob: " + b"[" * 5000,
    b"x" * 300_000,
    b"kind: !!binary 11\n",
    b"\xff\xfe\x00",
    b"- " * 1000 + b"x",
    b"? {a: b}\n: c\n",
)


@dataclass
class Tally:
    """What became of the files."""

    refused: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Tricks that were taken, other exceptions, bad messages."""


def uploads_of(rng: Rng, count: int) -> Iterator[Upload]:
    sound = {kind: make() for kind, make in SOUND.items()}
    names = list(TRICKS)
    for i in range(count):
        if i % SLOW_EVERY == SLOW_EVERY - 1:
            name = rng.choice(list(SLOW_TRICKS))
            yield name, *SLOW_TRICKS[name](rng), False
        elif i % 2:
            name = names[i // 2 % len(names)]
            yield name, *TRICKS[name](rng), False
        else:
            kind, change = rng.choice(list(sound)), rng.choice(CHANGES)
            yield f"{kind} {change.__name__}", kind, change(rng, sound[kind]), True


def offer(uploads: Uploads, what: str, kind: str, file: bytes, may_be_sound: bool, tally: Tally) -> None:
    name = f"../../{what}\n\x1b[2J{'x' * 500}"
    try:
        found = uploads.add("ann", kind, name, io.BytesIO(file), limit_bytes=1 << 30)
    except UploadRefused as error:
        tally.refused[what] += 1
        message = str(error)
        if len(message) > LONGEST_MESSAGE or not message.isprintable():
            tally.wrong.append(f"{what}: a message of {len(message)} characters: {message[:100]!r}")
    except Exception as error:
        tally.wrong.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")
    else:
        tally.accepted[what] += 1
        if not may_be_sound or not found.name.isprintable():
            tally.wrong.append(f"{what}: was accepted as {found}")


def offer_spec(text: bytes, tally: Tally) -> None:
    try:
        read_spec(text)
    except (JobError, ServiceError):
        tally.refused["job file"] += 1
    except Exception as error:
        tally.wrong.append(f"job file {text[:40]!r}: {type(error).__name__}: {str(error)[:200]}")
    else:
        tally.wrong.append(f"job file {text[:40]!r}: was accepted")


def attack(root: Path, hostile: Iterable[Upload]) -> Tally:
    """All of it against a service in a folder."""
    tally = Tally()
    with Database(root / "nas.sqlite") as db:
        db.upgrade()
        row = {"id": "ann", "name": "ann", "admin": False, "max_running": 1, "max_queued": 1, "created_s": 0.0}
        db.write(lambda connection: connection.execute(insert(connection, users).values(row)))
        uploads = Uploads(db, Blobs(root / "blobs"))
        for i, upload in enumerate(hostile):
            offer(uploads, *upload, tally)
            if i % 20 == 0:
                offer_spec(SPECS[i // 20 % len(SPECS)], tally)
            if i % 1000 == 999:
                print(f"{i + 1} files; wrong: {tally.wrong}", flush=True)
        uploads.close()
    return tally


def take(root: Path, offered: Connection) -> None:
    """What the process does that takes files: attack with what comes, then tell what became of it."""
    hostile: Iterator[Upload] = iter(offered.recv, None)
    tally = attack(root, hostile)
    usages = {"host": resource.RUSAGE_SELF, "inspectors": resource.RUSAGE_CHILDREN}
    offered.send((tally, {who: round(resource.getrusage(what).ru_maxrss / 1024) for who, what in usages.items()}))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    here, start_s = files_in(Path.cwd()), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        root, context = Path(name), get_context("spawn")
        ours, theirs = context.Pipe()
        host = context.Process(target=take, args=(root, theirs))
        host.start()
        for upload in uploads_of(Rng(options.seed), options.files):
            ours.send(upload)
        ours.send(None)
        tally, peak_mib = ours.recv()
        host.join()
        strays = [path for path in files_in(root) if not path.startswith(("blobs", "nas.sqlite"))]
        left = sum(path.suffix == ".part" for path in (root / "blobs").rglob("*"))
    for what in sorted(tally.refused | tally.accepted):
        print(f"{what:24} refused {tally.refused[what]:5}  accepted {tally.accepted[what]:5}")
    result = {
        "files": options.files,
        "refused": tally.refused.total(),
        "accepted": tally.accepted.total(),
        "wrong": tally.wrong,
        "files_elsewhere": sorted([*strays, *(files_in(Path.cwd()) - here)]),
        "files_left_behind": left,
        "host_ended_with": host.exitcode,
        "peak_mib": peak_mib,
        "seconds": round(time.monotonic() - start_s, 1),
    }
    print_result("hostile_uploads", result)


if __name__ == "__main__":
    main()
