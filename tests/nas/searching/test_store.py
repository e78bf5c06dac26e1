"""The evaluation store: what was evaluated once is there for good."""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.errors import JobError
from nas.searching.store import EvaluationStore
from tests.nas.fakes import small_space

ROOT = Path(__file__).parents[2]
SPACE = small_space()
ARCHS = SPACE.decode(np.unique(SPACE.sample(np.random.default_rng(0), 60), axis=0))

# Adds one evaluation after the other and says so, until it is killed.
ADDING = """
import sys
from pathlib import Path
import numpy as np
from nas.searching.store import EvaluationStore
from search_spaces import define_space
space = define_space("tiny")
with EvaluationStore(Path(sys.argv[1]), "same") as store:
    for i, arch in enumerate(space.decode(space.sample(np.random.default_rng(0), 20_000))):
        store.add(arch, i / 20_000, 0.5)
        print(arch.id, flush=True)
"""


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path):
    with EvaluationStore(tmp_path / "a.sqlite", "x") as store:
        assert store.known() == {}
        store.add(ARCHS[0], 0.75, 1.5)
        store.add(ARCHS[1], 1 / 3, 0.5)
        assert store.known() == {ARCHS[0].id: 0.75, ARCHS[1].id: 1 / 3}
    with EvaluationStore(tmp_path / "a.sqlite", "x") as store:
        assert store.known() == {ARCHS[0].id: 0.75, ARCHS[1].id: 1 / 3}


def test_the_first_evaluation_of_an_architecture_stays(tmp_path):
    with EvaluationStore(tmp_path / "a.sqlite", "x") as store:
        for accuracy in (0.25, 0.25, 0.5):
            store.add(ARCHS[0], accuracy, 1.0)
        assert store.known() == {ARCHS[0].id: 0.25}


def test_an_addition_is_seen_by_others_at_once(tmp_path):
    with EvaluationStore(tmp_path / "a.sqlite", "x") as store, EvaluationStore(tmp_path / "a.sqlite", "x") as other:
        store.add(ARCHS[0], 0.25, 1.0)
        assert other.known() == {ARCHS[0].id: 0.25}


def test_the_file_says_which_architecture_a_row_is(tmp_path):
    with EvaluationStore(tmp_path / "a.sqlite", "x") as store:
        store.add(ARCHS[3], 0.25, 1.5)
    database = sqlite3.connect(tmp_path / "a.sqlite")
    rows = database.execute("SELECT arch_id, arch, val_accuracy, seconds FROM evaluations").fetchall()
    database.close()
    assert [(SPACE.arch_from_json(json.loads(arch)).id, *rest) for _, arch, *rest in rows] == [(ARCHS[3].id, 0.25, 1.5)]


def test_evaluations_of_another_supernet_are_refused_and_kept(tmp_path):
    with EvaluationStore(tmp_path / "a.sqlite", "mine") as store:
        store.add(ARCHS[0], 0.25, 1.0)
    with pytest.raises(JobError, match=r"a\.sqlite: holds evaluations of another supernet.*\(mine, not yours\)"):
        EvaluationStore(tmp_path / "a.sqlite", "yours")
    with EvaluationStore(tmp_path / "a.sqlite", "mine") as store:
        assert len(store.known()) == 1


def test_a_file_that_is_no_store_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(JobError, match=r"a\.sqlite: cannot be used") as caught:
        EvaluationStore(tmp_path / "a.sqlite", "x")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.sqlite").read_bytes().startswith(b"not a database")


def test_a_damaged_store_is_refused_in_one_line(tmp_path):
    path = tmp_path / "a.sqlite"
    with EvaluationStore(path, "x") as store:
        for i, arch in enumerate(ARCHS):
            store.add(arch, i / 100, 1.0)
    content = path.read_bytes()
    # All but the first page, which says what is in the file, is overwritten.
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(JobError, match=r"a\.sqlite: cannot be") as caught, EvaluationStore(path, "x") as store:
        store.known()
    assert "\n" not in str(caught.value)


def test_a_store_in_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(JobError, match="cannot be used"):
        EvaluationStore(tmp_path / "absent" / "a.sqlite", "x")


def test_what_was_added_before_a_kill_is_there_after_it(tmp_path):
    arguments = [sys.executable, "-c", ADDING, tmp_path / "a.sqlite"]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        added = [process.stdout.readline().strip() for _ in range(10)]
        process.send_signal(signal.SIGKILL)
        added += process.stdout.read().split()
    assert process.returncode == -signal.SIGKILL
    with EvaluationStore(tmp_path / "a.sqlite", "same") as store:
        known = store.known()
        assert list(known)[: len(added)] == added
        # The one that was being added may be there or not.
        assert len(added) <= len(known) <= len(added) + 1
        assert list(known.values()) == [i / 20_000 for i in range(len(known))]
        store.add(ARCHS[0], 0.5, 1.0)
        assert len(store.known()) == len(known) + 1
