"""The models that an agent has downloaded, by their SHA-256: what is read from here has the content that was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from nas.agent.errors import AgentError, Refused
from nas.agent.transport import Transport
from nas.agent.wire import GraphRef

PIECE_BYTES = 1 << 20
"""Downloaded at a time: between two pieces the agent tells the server that it is there. A cut costs one piece."""
KEEP_BYTES = 2 << 30
TRIES = 3


class Models:
    """A bounded folder of models. The ones longest unused go first."""

    def __init__(self, folder: Path, keep_bytes: int = KEEP_BYTES) -> None:
        self.folder = folder
        self.keep_bytes = keep_bytes
        self.wrong: dict[str, int] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def missing(self, graphs: Sequence[GraphRef]) -> GraphRef | None:
        """The first of these that is not here whole."""
        return next((graph for graph in graphs if not self.path(graph.sha256).exists()), None)

    def path(self, digest: str) -> Path:
        return self.folder / digest

    def fetch_piece(self, graph: GraphRef, transport: Transport) -> None:
        """Download the next piece. After the last one the model is here, if it is the one that was asked for.

        `Refused` when it is another one time after time.
        """
        part = self.folder / f"{graph.sha256}.part"
        have = part.stat().st_size if part.exists() else 0
        if have < graph.size_bytes:
            length = min(PIECE_BYTES, graph.size_bytes - have)
            piece = transport.piece(graph.sha256, have, length)
            if len(piece) > length:
                raise Refused(f"model {graph.sha256}: the server sent {len(piece)} bytes, asked for {length}")
            with part.open("ab") as file:
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            have += len(piece)
        if have >= graph.size_bytes:
            self._settle(part, graph)

    def _settle(self, part: Path, graph: GraphRef) -> None:
        if part.stat().st_size == graph.size_bytes and _hash(part) == graph.sha256:
            part.replace(self.path(graph.sha256))
            self.wrong.pop(graph.sha256, None)
            return
        part.unlink()
        self.wrong[graph.sha256] = self.wrong.get(graph.sha256, 0) + 1
        if self.wrong[graph.sha256] >= TRIES:
            del self.wrong[graph.sha256]
            raise Refused(f"model {graph.sha256}: {TRIES} downloads had another content")

    def read(self, graph: GraphRef) -> bytes:
        """The model; `AgentError` if its file was changed, which is then gone."""
        path = self.path(graph.sha256)
        model = path.read_bytes()
        if sha256(model).hexdigest() != graph.sha256:
            path.unlink()
            raise AgentError(f"model {graph.sha256}: the file was changed after it was downloaded; it is removed")
        os.utime(path)
        return model

    def make_room(self, graphs: Sequence[GraphRef]) -> None:
        """Remove what was longest not used, so that these fit as well. Parts of others go at once."""
        wanted = {graph.sha256: graph.size_bytes for graph in graphs}
        kept: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            if path.name.partition(".")[0] in wanted:
                continue
            if path.suffix:
                path.unlink()
            else:
                about = path.stat()
                kept.append((about.st_mtime, about.st_size, path))
        room = self.keep_bytes - sum(wanted.values()) - sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if room >= 0:
                return
            path.unlink()
            room += size


def _hash(path: Path) -> str:
    found = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
