"""Kill -9 a writer at random moments, and see that the gallery is the old one or the new one, and can be gone on with.

    python -m tests.index.kill --moments 100 --seed 7

A third of the moments are times drawn over the whole run of a build, addition, removal or compaction, the others its
calls that touch the disk, in any order. Everything runs in forks of a process that starts no thread itself.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from index import catalogue
from index.build import build_generation, open_index
from index.errors import UnknownNameError
from index.exact import as_float32
from index.gallery import Gallery, leftovers, remove_leftovers, verify
from tests.index.conftest import make_gallery, make_vectors, rows_of

ROWS = 1200
STEPS = ("fsync", "replace", "unlink", "rmdir")  # of os: what touches the disk
ADDED = [f"item-{i:05d}" for i in range(1100, 1300)]  # half of them are there already
REMOVED = [f"item-{i:05d}" for i in range(0, 1100, 3)]

Content = dict[str, bytes]
Work = Callable[[Path], object]


def _add(path: Path) -> object:
    return catalogue.add(path, rows_of(ADDED, make_vectors(ROWS + 200)[ROWS:]), tail_rows=150)


def _remove(path: Path) -> object:
    try:
        return catalogue.remove(path, REMOVED)
    except UnknownNameError:  # done already
        return remove_leftovers(path)


WORK: dict[str, Work] = {
    "build": lambda path: build_generation(Gallery.open(path), "exact"),
    "build with a copy": lambda path: build_generation(Gallery.open(path), "fastscan", memory=180 * ROWS),
    "add": _add,
    "add ivfpq": _add,
    "remove": _remove,
    "compact": catalogue.compact,
    "compact ivfpq": lambda path: catalogue.compact(path, "ivfpq"),
}


def in_fork(work: Callable[[], object]) -> int:
    """Start ``work`` in a fork; its process id. The fork ends with 0, or 1 and a traceback."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def finish(child: int) -> int:
    """The exit code of a fork, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def done(work: Callable[[], object]) -> None:
    if finish(in_fork(work)) != 0:
        raise AssertionError("see the traceback above")


START = {
    "build": "bare",
    "build with a copy": "bare",
    "add": "changed-exact",
    "add ivfpq": "changed-ivfpq",
    "remove": "indexed-exact",
    "compact": "changed-exact",
    "compact ivfpq": "changed-ivfpq",
}


def make_starts(folder: Path) -> None:
    """The galleries that the works begin with: bare, indexed, and indexed with an addition and a removal since."""
    bare = make_gallery(folder / "bare", make_vectors(ROWS), 500).path
    for kind in ("exact", "ivfpq"):
        path = Path(shutil.copytree(bare, folder / f"indexed-{kind}"))
        build_generation(Gallery.open(path), kind)
        changed = Path(shutil.copytree(path, folder / f"changed-{kind}"))
        catalogue.remove(changed, REMOVED[:50])
        catalogue.add(changed, rows_of(["one", "two"], make_vectors(ROWS + 2)[ROWS:]))


def content_of(gallery: Gallery) -> Content:
    """id -> vector of all that is in a gallery."""
    vectors = gallery.vectors(np.arange(gallery.manifest.rows))
    return {id_: vectors[row].tobytes() for id_, row in gallery.row_by_id.items()}


def check(path: Path, work: Work, old: Content, new: Content) -> None:
    """After a kill: sound, old or new, readable while the work is finished by the same call, and tidy after that."""
    assert verify(path) == []
    reader = Gallery.open(path)
    found = content_of(reader)
    assert found in (old, new)
    reader = Gallery.open(path)  # one that has read nothing yet
    index: Any = open_index(reader) if reader.manifest.current is not None else None
    work(path)
    assert verify(path) == []
    assert leftovers(path) == []
    after = Gallery.open(path)
    assert content_of(after) == new
    on_disk = {each for each in path.rglob("*") if each.is_file()}
    assert on_disk == {*after.named_files(), path / "gallery.json"}
    queries = as_float32(np.stack([np.frombuffer(each, np.float16) for each in list(new.values())[:5]]))
    assert (open_index(after).search(queries, 10).counts == 10).all()
    assert content_of(reader) == found
    assert index is None or (index.search(queries, 10).counts == 10).all()


def die_at(step: int) -> list[int]:
    """From here on the process dies (-9) at so many steps that touch the disk; in the list, how many are left."""
    left = [step]

    def or_die(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    for name in STEPS:
        setattr(os, name, or_die(getattr(os, name)))
    return left


def alone(name: str, folder: Path) -> None:
    """Do a work to its end; leaves the number of its steps."""
    left = die_at(10**9)
    WORK[name](folder / f"new-{name}")
    (folder / f"steps-{name}").write_text(str(10**9 - left[0]))


def kill(name: str, folder: Path, moment: float | int) -> bool:
    """Do a work on a copy and kill it: after so many seconds, or at so many steps. Whether it died before its end."""
    path, work = folder / "try", WORK[name]
    shutil.copytree(folder / START[name], path)
    if isinstance(moment, int):
        child = in_fork(lambda: (die_at(moment), work(path)))
    else:
        child = in_fork(lambda: work(path))
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    died = finish(child) == -signal.SIGKILL

    def look() -> None:
        old, new = (content_of(Gallery.open(folder / each)) for each in (START[name], f"new-{name}"))
        check(path, work, old, new)

    done(look)
    shutil.rmtree(path)
    return died


def moments(count: int, seed: int = 0, only: Sequence[str] = tuple(WORK), say: Callable[[str], object] = print) -> int:
    """Kill the works, in turn, at so many random moments and check what each leaves; how many died before their end."""
    rng = random.Random(seed)
    killed = 0
    folder = Path(tempfile.mkdtemp())
    try:
        done(lambda: make_starts(folder))
        takes, steps = {}, {}
        for name in only:  # what it leads to, how long it takes and how many steps, when it is left alone
            shutil.copytree(folder / START[name], folder / f"new-{name}")
            begun = time.perf_counter()
            done(partial(alone, name, folder))
            takes[name] = time.perf_counter() - begun
            count_of = int((folder / f"steps-{name}").read_text())
            steps[name] = rng.sample(range(1, count_of + 1), count_of)
        for number in range(count):
            name = only[number % len(only)]
            by_step = number // len(only) % 3 != 1 and steps[name]
            moment = steps[name].pop() if by_step else rng.random() * takes[name]
            died = kill(name, folder, moment)
            killed += died
            how = f"at step {moment}" if isinstance(moment, int) else f"after {1000 * moment:.0f} ms"
            say(f"{number + 1}: {name} {how}{'' if died else ' (had ended)'}")
    finally:
        shutil.rmtree(folder)
    return killed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    total = moments(asked.moments, asked.seed)
    print(f"{asked.moments} moments, {total} killed before their end: every gallery was the old one or the new one")
