"""Everything that a service runs dies again and again, and nothing is lost, double or different."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_fifty_kills_change_nothing(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "service_kills.py", "--jobs", "20", "--kills", "50"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "service", "--limit", "600"], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode in (0, 1) and done.stdout else done.stderr
    assert done.returncode == 0, found
    assert found["kills"] == 50
    assert set(found["by_kind"]) >= {"server", "worker", "keeper", "step", "agent"}
