"""The processor and memory of the machine at hand, as the system describes them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

NOISE = re.compile(
    r"\(r\)|\(tm\)|\bcpu\b|\bprocessor\b|@.*|\bwith .*|\b\d+-core\b|\b\d+(th|st|nd|rd) gen\b", re.IGNORECASE
)
# Model string -> short word; the first that matches. `{}` is what the group caught.
WORDS = (
    (r"epyc[^\d]*(\d)\w{2}(\w)\b", "epyc-{}00{}"),
    (r"ryzen (?:ai )?(?:threadripper )?(?:pro )?(\d?) ?(?:pro )?(\w*\d{4}\w*)", "ryzen-{}-{}"),
    (r"xeon (?:(platinum|gold|silver|bronze) )?((?:\w\d?-)?\d{4}\w*(?: v\d)?)", "xeon-{}-{}"),
    (r"core (?:ultra )?(i?\d)[- ](\d{3,5}\w*)", "core-{}-{}"),
    (r"apple (m\d+)(?: (pro|max|ultra))?", "apple-{}-{}"),
    (r"(cortex|neoverse)-(\w+)", "{}-{}"),
    (r"raspberry pi (\d+|zero)(?: model (\w))?", "rpi-{}-{}"),
    (r"(jetson) (?:agx )?(\w+(?: nano| nx)?)", "{}-{}"),
    (r"(snapdragon|graviton|ampere|tegra)\W*(\w*)", "{}-{}"),
)
# Cores that Linux on Arm names by number only (`CPU part` of implementer 0x41; Arm's technical reference manuals).
ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE", "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Processor:
    """Empty or 0 where it cannot be read."""

    model: str
    machine: str
    flags: tuple[str, ...]
    cores: int
    usable_cores: int
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    memory_gib: int
    governor: str

    @staticmethod
    def here() -> Processor:
        cpuinfo = _cpuinfo()
        cores = os.cpu_count() or 1
        return Processor(
            model=_model(cpuinfo),
            machine=platform.machine(),
            flags=tuple(sorted((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())),
            cores=cores,
            usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
            memory_gib=_memory_gib(),
            governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        )


def short_name(model: str, machine: str = "") -> str:
    """A processor's model string as one short word: series and model, as `epyc-9004`, `core-i7-9700k`, `apple-m2`."""
    text = " ".join(NOISE.sub(" ", model).lower().split())
    for pattern, word in WORDS:
        found = re.search(pattern, text)
        if found:
            return _word(word.format(*(group or "" for group in found.groups())))
    return _word("-".join(text.split()[:3])) or _word(machine.lower()) or "unknown"


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def _model(cpuinfo: dict[str, str]) -> str:
    """What the system calls the processor; on Arm often only the board or the kind of core is known."""
    for found in (
        cpuinfo.get("model name"),
        cpuinfo.get("Model"),
        _read("/proc/device-tree/model").strip("\0 \n"),
        ARM_PARTS.get(cpuinfo.get("CPU part", "")),
        _sysctl("machdep.cpu.brand_string") if platform.system() == "Darwin" else "",
        platform.processor(),
    ):
        if found:
            return found
    return ""


def _cpuinfo() -> dict[str, str]:
    """The first value of every key in `/proc/cpuinfo`."""
    found: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _memory_gib() -> int:
    """Installed memory, rounded: the exact number moves with the kernel."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, ValueError, OSError):
        return 0


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
