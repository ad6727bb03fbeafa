"""What peers.py and scale.py share: work in a process of its own, its memory watched, and latencies."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Memory:
    """Bytes resident in a process. anonymous: its own; mapped: pages of files, which the kernel can drop."""

    anonymous: int
    mapped: int

    @property
    def total(self) -> int:
        return self.anonymous + self.mapped

    @classmethod
    def of(cls, pid: int | str = "self") -> Memory | None:
        """Now; None when the process has ended, or where there is no /proc (all of it then counts as anonymous)."""
        if not Path("/proc/self/status").is_file():
            peak = resource.getrusage(resource.RUSAGE_SELF if pid == "self" else resource.RUSAGE_CHILDREN).ru_maxrss
            return cls(peak * (1 if sys.platform == "darwin" else 1024), 0)
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return None
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
        if "RssAnon" not in kilobytes:  # a zombie
            return None
        return cls(kilobytes["RssAnon"] * 1024, (kilobytes["RssFile"] + kilobytes["RssShmem"]) * 1024)


@dataclass(frozen=True)
class Ran:
    """How a process went. peak_anonymous, peak_total: the most bytes seen resident, looked at 20 times a second.

    records: what it wrote with ``record``, in order; those of a process that was stopped are kept.
    """

    code: int | None  # None: stopped at the time limit
    seconds: float
    peak_anonymous: int
    peak_total: int
    records: list[dict[str, Any]]

    def last(self, kind: str) -> dict[str, Any]:
        """The newest record of a kind; {} without one."""
        return next((each for each in reversed(self.records) if each["kind"] == kind), {})


def run(module: str, arguments: Iterable[Any], records: Path, *, timeout: float, threads: int) -> Ran:
    """``python -m module RECORDS arguments...`` in a new process; its output goes where this one's does."""
    records.unlink(missing_ok=True)
    records.parent.mkdir(parents=True, exist_ok=True)
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LANCE_CPU_THREADS", "RAYON_NUM_THREADS")
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process below is stopped, too
    environment = os.environ | {name: str(threads) for name in pools}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", module, str(records), *map(str, arguments)]
    start = time.perf_counter()
    child = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=sys.stderr)
    peak, total, code = 0, 0, None
    try:
        while (code := child.poll()) is None and time.perf_counter() - start < timeout:
            if now := Memory.of(child.pid):
                peak, total = max(peak, now.anonymous), max(total, now.total)
            time.sleep(0.05)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    lines = records.read_text(encoding="utf-8").splitlines() if records.is_file() else []
    return Ran(code, time.perf_counter() - start, peak, total, [json.loads(line) for line in lines])


def record(path: Path, kind: str, **facts: Any) -> None:
    """Hand facts to the process that ran this one, at once: they survive whatever comes next."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, **facts}) + "\n")


def latencies(ask: Callable[[int], Any], count: int) -> dict[str, float]:
    """Milliseconds of ask(0), ask(1) ... one after the other: p50 and p99."""
    times = np.empty(count)
    for i in range(count):
        start = time.perf_counter()
        ask(i)
        times[i] = time.perf_counter() - start
    return {"p50_ms": 1000 * float(np.median(times)), "p99_ms": 1000 * float(np.quantile(times, 0.99))}


def best_seconds(*works: Callable[[], Any], rounds: int, at_least: float = 0.3) -> list[float]:
    """Seconds of each, in turn in every round: its fastest, since on a shared machine the others time the neighbours.

    Short work gets more rounds, until ``at_least`` seconds have passed.
    """
    best, begin, done = [float("inf")] * len(works), time.perf_counter(), 0
    while done < rounds or time.perf_counter() - begin < at_least:
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
        done += 1
    return best


class Stages:
    """Seconds of the main thread by what it was doing, from its stack looked at 50 times a second.

    ``label`` names a stage from the stack's functions, outermost first, as "file.function"; None is not counted.
    The code measured needs no marks in it, so the split survives its rewriting.
    """

    def __init__(self, label: Callable[[list[str]], str | None]) -> None:
        self.seconds: dict[str, float] = {}
        self._label, self._main = label, threading.main_thread().ident
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Stages:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        before = time.perf_counter()
        while not self._stop.wait(0.02):
            frame, names = sys._current_frames().get(self._main or 0), []
            while frame is not None:
                names.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
                frame = frame.f_back
            now = time.perf_counter()
            if stage := self._label(names[::-1]):
                self.seconds[stage] = self.seconds.get(stage, 0.0) + now - before
            before = now


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget these files' pages, so that the next read is from the disk; needs no rights."""
    if hasattr(os, "posix_fadvise"):
        for path in paths:
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)  # only clean pages can be dropped
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def machine() -> dict[str, Any]:
    """What figures depend on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    flags = set(next((line.split(":")[1].split() for line in info.splitlines() if line.startswith("flags")), []))
    vector = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if name in flags]
    return {"cores": os.cpu_count(), "vector": vector, "python": sys.version.split()[0], "numpy": np.__version__}
