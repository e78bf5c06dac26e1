"""Downloads: in pieces, gone on with, and used only if they are what was asked for."""

import os
from hashlib import sha256

import pytest

from nas.agent import models as models_module
from nas.agent.errors import AgentError, Away, Refused
from nas.agent.models import Models
from nas.agent.wire import GraphRef

MODEL = bytes(range(256)) * 40


def reference(model: bytes, key: str = "a") -> GraphRef:
    return GraphRef(key, sha256(model).hexdigest(), len(model))


class Shelf:
    """A server with one model, of which `piece` gives what `served` says."""

    def __init__(self, *served) -> None:
        self.served = list(served)
        self.asked: list[tuple[int, int]] = []

    def piece(self, digest: str, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        found = self.served.pop(0) if self.served else MODEL
        if isinstance(found, Exception):
            raise found
        return found[start : start + length]


@pytest.fixture
def models(tmp_path, monkeypatch) -> Models:
    monkeypatch.setattr(models_module, "PIECE_BYTES", 4000)
    return Models(tmp_path / "models", keep_bytes=25_000)


def fetch(models: Models, graph: GraphRef, shelf: Shelf, tries: int = 20) -> None:
    for _ in range(tries):
        if models.missing([graph]) is None:
            return
        models.fetch_piece(graph, shelf)


def test_a_model_comes_in_pieces_and_a_cut_costs_one(models):
    graph, shelf = reference(MODEL), Shelf(MODEL, Away("cut"), MODEL)
    with pytest.raises(Away):
        fetch(models, graph, shelf)
    again = Models(models.folder)
    fetch(again, graph, shelf)
    assert shelf.asked == [(0, 4000), (4000, 4000), (4000, 4000), (8000, 2240)]
    assert again.read(graph) == MODEL


def test_another_content_is_never_used_and_given_up_after_a_while(models):
    graph, shelf = reference(MODEL), Shelf(*[bytes(len(MODEL))] * 100)
    with pytest.raises(Refused, match="3 downloads had another content"):
        fetch(models, graph, shelf)
    assert models.missing([graph]) == graph
    assert list(models.folder.iterdir()) == []
    fetch(models, graph, Shelf())
    assert models.read(graph) == MODEL


def test_more_than_was_asked_for_is_refused(models):
    shelf = Shelf()
    shelf.piece = lambda digest, start, length: MODEL
    with pytest.raises(Refused, match="the server sent 10240 bytes, asked for 4000"):
        fetch(models, reference(MODEL), shelf)


def test_a_file_that_was_changed_is_not_measured(models):
    graph = reference(MODEL)
    fetch(models, graph, Shelf())
    models.path(graph.sha256).write_bytes(MODEL[:-1])
    with pytest.raises(AgentError, match="was changed after it was downloaded"):
        models.read(graph)
    assert models.missing([graph]) == graph


def test_what_was_not_used_for_the_longest_time_makes_room(models):
    kept = [reference(bytes([number]) * 10_000, str(number)) for number in range(2)]
    for number, graph in enumerate(kept):
        models.path(graph.sha256).write_bytes(bytes([number]) * 10_000)
        os.utime(models.path(graph.sha256), (1000 - number, 1000 - number))
    (models.folder / f"{'f' * 64}.part").write_bytes(b"left behind")
    new = reference(MODEL)
    models.make_room([new])
    assert {path.name for path in models.folder.iterdir()} == {kept[0].sha256}
    models.make_room([new, kept[0]])
    assert models.path(kept[0].sha256).exists()
