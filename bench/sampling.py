"""Where the processor time of Caduceus goes, by py-spy, when it is installed and `--profile` asks."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import machine
from bench.servers import ROOT, Server

OUT = ROOT / "build"
MISSING = "py-spy is not installed (pip install py-spy, anywhere on the PATH): no profile"
RATE_HZ = 500
TOP_FUNCTIONS = 25
LINE = re.compile(r":\d+\)$")


class Sampler:
    """Collapsed stacks (speedscope and flamegraph.pl read them) of each window, one file each in build/."""

    def __init__(self, wanted: bool, core: int | None) -> None:
        here = str(Path(sys.executable).parent)
        self.program = (shutil.which("py-spy") or shutil.which("py-spy", path=here)) if wanted else None
        self.core = core
        self.running: list[subprocess.Popen[bytes]] = []
        self.files: list[Path] = []
        if wanted and not self.program:
            print(f"bench: {MISSING}", file=sys.stderr)

    def watch(self, server: Server, window: str, length_s: float) -> None:
        """Sample the largest process of Caduceus, its worker, for as long as the window lasts."""
        if not self.program or server.name != "Caduceus" or window not in ("streams", "plain", "peak"):
            return
        OUT.mkdir(exist_ok=True)
        file = OUT / f"bench-{window}.collapsed.txt"
        worker = max(server.proxy_pids(), key=lambda pid: sum(machine.rss_bytes([pid])))
        options = ["--pid", str(worker), "--duration", str(int(length_s)), "--rate", str(RATE_HZ), "--nonblocking"]
        with machine.pinned(self.core):
            command = [self.program, "record", *options, "--format", "raw", "--output", str(file)]
            self.running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        self.files.append(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def summary(self) -> str:
        return "\n\n".join(top(file) for file in self.files if file.exists())


def top(file: Path) -> str:
    """The functions with the most samples of their own, and in all that they called."""
    own, total, samples = Counter[str](), Counter[str](), 0
    for stack in file.read_text().splitlines():
        frames, _, count = stack.rpartition(" ")
        functions = [LINE.sub(")", frame) for frame in frames.split(";")]
        samples += int(count)
        own[functions[-1]] += int(count)
        total.update(dict.fromkeys(functions, int(count)))
    if not samples:
        return f"{file.name}: no samples"
    rows = [f"{own[f] / samples:6.1%} {total[f] / samples:6.1%}  {f}" for f, _ in own.most_common(TOP_FUNCTIONS)]
    return "\n".join([f"{file.name}: {samples} samples", "   own  total  function", *rows])
