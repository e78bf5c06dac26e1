"""The Python client against a service that answers, breaks off, goes away and comes back."""

import hashlib
import io
import json
from itertools import count
from pathlib import Path

import httpx
import pyarrow.parquet
import pytest
import yaml
from PIL import Image

from nas.api.app import make_app
from nas.client import Client, Event, _events
from nas.connection import ClientError, Patience, token_for
from nas.packing import pack, split_folders
from nas.service.people import SCOPES
from tests.nas.api.hosted import SPEC, Hosted, answering, hosted, opened

JOB = SPEC["job"]
CONTENT = bytes(range(256)) * 2000


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with hosted(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
def asker(site):
    found = site.person(scopes=SCOPES)
    with found.http:
        yield found


@pytest.fixture
def client(site, asker, monkeypatch):
    monkeypatch.setattr("nas.connection.time.sleep", lambda seconds: None)
    with Client(site.url, asker.secret, patience_s=5) as found:
        yield found


class Unreliable(httpx.BaseTransport):
    """A network on which things get lost: `fate` says of the nth request what becomes of it."""

    def __init__(self, fate) -> None:
        self._inner = httpx.HTTPTransport()
        self._fate = fate
        self._numbers = count()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        fate = self._fate(next(self._numbers))
        if fate == "lost":
            raise httpx.ConnectError("lost on the way there", request=request)
        if fate == "busy":
            return httpx.Response(503, json={"error": {"code": "unavailable", "message": "busy"}}, request=request)
        answer = self._inner.handle_request(request)
        if fate == "unheard":
            answer.close()
            raise httpx.ReadError("lost on the way back", request=request)
        if fate == "cut":
            return httpx.Response(
                answer.status_code, headers=answer.headers, stream=Cut(answer, request), request=request
            )
        return answer

    def close(self) -> None:
        self._inner.close()


class Cut(httpx.SyncByteStream):
    """Half an answer."""

    def __init__(self, answer: httpx.Response, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    def __iter__(self):
        for chunk in self._answer.stream:
            yield chunk[: len(chunk) // 2]
            raise httpx.ReadError("cut", request=self._request)

    def close(self) -> None:
        self._answer.close()


def unreliable(site: Hosted, asker, fate) -> Client:
    return Client(site.url, asker.secret, patience_s=30, transport=Unreliable(fate))


# Submitting


def test_a_job_file_is_submitted_as_a_run(client, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB))
    job = client.submit(file, overrides=["search.evaluations=40", "seed=3"], priority=5)
    assert (job["kind"], job["priority"]) == ("run", 5)
    assert job["spec"]["job"]["search"] == {"evaluations": 40}
    assert job["spec"]["job"]["seed"] == 3
    assert client.submit(file, kind="train")["kind"] == "train"


def test_a_spec_is_submitted_as_it_is(client, asker):
    assert client.submit(SPEC)["spec"] == SPEC
    parent = asker.finished({"train.json": b"{}", "job.json": json.dumps({"job": {**JOB, "seed": 0}}).encode()})
    following = client.submit({"kind": "search", "from": parent}, overrides=["search.evaluations=40"])
    assert following["spec"]["set"] == {"search.evaluations": 40}
    assert following["parent"] == parent


@pytest.mark.parametrize("fate", ["lost", "busy", "unheard"])
def test_a_job_is_submitted_once_however_often_the_network_fails(site, asker, monkeypatch, fate):
    monkeypatch.setattr("nas.connection.time.sleep", lambda seconds: None)
    with unreliable(site, asker, lambda n: fate if n < 3 else "") as client:
        job = client.submit(SPEC)
        assert [each["id"] for each in client.jobs()] == [job["id"]]


def test_a_refusal_is_said_in_the_services_words_and_not_tried_again(site, asker):
    seen = []
    with unreliable(site, asker, lambda n: seen.append(n) or "") as client:
        with pytest.raises(ClientError, match="kind must be one of") as refused:
            client.submit({"kind": "dance"})
        with pytest.raises(ClientError, match="no such job"):
            client.job("j-none")
    assert (refused.value.status, refused.value.code) == (422, "invalid")
    assert len(seen) == 2


def test_a_service_that_stays_away_is_given_up_with_one_line(asker, monkeypatch):
    monkeypatch.setattr("nas.connection.time.sleep", lambda seconds: None)
    client = Client("http://127.0.0.1:9", asker.secret, patience_s=0.05)
    with client, pytest.raises(ClientError, match="is `nas serve` running") as away:
        client.me()
    assert away.value.status == 0


@pytest.mark.parametrize(
    ("text", "said"), [("[1]", "wanted a job file"), ("{a: [}", "not valid YAML"), ("&a [*a]", "wanted a job file")]
)
def test_what_is_no_job_file_is_refused_before_it_is_sent(client, tmp_path, text, said):
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(ClientError, match=said):
        client.submit(file)
    with pytest.raises(ClientError, match="cannot be read"):
        client.submit(tmp_path / "none.yaml")


# Images


def picture(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), colour).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images of two classes, in splits."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for n in range(3):
                picture(tmp_path / "animals" / split / name / f"{n}.png", 10 * n)
    return tmp_path / "animals"


def test_a_folder_is_packed_with_its_bytes_and_its_classes(folder, tmp_path):
    pack(folder / "train", tmp_path / "packed.parquet")
    rows = pyarrow.parquet.read_table(tmp_path / "packed.parquet").to_pylist()
    assert [row["label"] for row in rows] == ["cat"] * 3 + ["dog"] * 3
    assert rows[1]["image"] == {"bytes": (folder / "train/cat/1.png").read_bytes(), "path": "cat/1.png"}


def test_images_of_this_machine_are_uploaded_and_named(client, site, folder, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({**JOB, "data": {"kind": "folder", "path": "animals"}}))
    data = client.submit(file)["spec"]["job"]["data"]
    assert (data["kind"], data["name"]) == ("parquet", "train")
    uploads = {key: site.services.uploads.get(data[key].removeprefix("upload:")) for key in ("path", "test_path")}
    assert [upload.name for upload in uploads.values()] == ["train.parquet", "test.parquet"]
    packed = pyarrow.parquet.read_table(io.BytesIO(site.services.blobs.read(uploads["path"].sha256)))
    assert packed.num_rows == 6


def test_parquet_files_are_uploaded_and_those_of_a_folder_as_one(client, site, folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "tables").mkdir(exist_ok=True)
        pack(folder / split, tmp_path / "tables" / f"{split}.parquet")
    one = client.submit(
        {**SPEC, "job": {**JOB, "data": {"kind": "parquet", "path": str(tmp_path / "tables/train.parquet")}}}
    )
    sha256 = site.services.uploads.get(one["spec"]["job"]["data"]["path"].removeprefix("upload:")).sha256
    assert sha256 == hashlib.sha256((tmp_path / "tables/train.parquet").read_bytes()).hexdigest()
    both = client.submit({**SPEC, "job": {**JOB, "data": {"kind": "parquet", "path": str(tmp_path / "tables")}}})
    sha256 = site.services.uploads.get(both["spec"]["job"]["data"]["path"].removeprefix("upload:")).sha256
    assert pyarrow.parquet.read_table(io.BytesIO(site.services.blobs.read(sha256))).num_rows == 12


def test_images_that_the_service_has_are_left_there(client, site, asker):
    upload = client.upload(Path(__file__), "parquet")
    data = {"kind": "parquet", "path": f"upload:{upload['id']}"}
    assert client.submit({**SPEC, "job": {**JOB, "data": data}})["spec"]["job"]["data"] == data
    assert next(client.uploads())["name"] == "test_client.py"


def test_a_folder_without_images_or_with_a_val_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClientError, match="has no images"):
        pack(tmp_path / "empty", tmp_path / "x.parquet")
    for name in ("train", "val", "test"):
        (tmp_path / "split" / name).mkdir(parents=True)
    with pytest.raises(ClientError, match=r"give .*train as data\.path"):
        split_folders(tmp_path / "split")


def test_a_file_is_sent_again_where_it_did_not_arrive(site, asker, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.connection.time.sleep", lambda seconds: None)
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    with unreliable(site, asker, lambda n: "lost" if n < 2 else "") as client:
        upload = client.upload(tmp_path / "model.onnx")
    assert upload["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(ClientError, match="wanted a file that ends in"), Client(site.url, asker.secret) as client:
        client.upload(Path("weights.pt"))


# Watching


def test_watching_sees_every_event_once_over_connections_that_break(site, asker, monkeypatch):
    monkeypatch.setattr("nas.connection.time.sleep", lambda seconds: None)
    lease = asker.running()
    for n in range(5):
        site.services.events.append(lease, [("log", {"text": f"{n}.{i}"}) for i in range(20)], 20 * n)
    site.services.jobs.finish(lease, "SUCCEEDED", result={})
    with unreliable(site, asker, lambda n: ("cut", "lost", "busy", "unheard")[n % 4] if n < 12 else "") as client:
        events = list(client.watch(lease.job_id))
        assert [event.seq for event in events] == list(range(1, 104))
        assert events[-1].last
        assert list(client.watch(lease.job_id, after=103)) == []
        assert client.wait(lease.job_id)["state"] == "SUCCEEDED"


def test_watching_goes_on_when_the_service_was_away(tmp_path, monkeypatch):
    """The server ends in the middle of a stream, and another one comes up in its place."""
    with hosted(tmp_path) as site:
        asker = site.person()
        lease = asker.running()
        port = int(site.url.rpartition(":")[2])
        client = Client(site.url, asker.secret)
        events = client.watch(lease.job_id)
        assert [next(events).seq for _ in range(2)] == [1, 2]
        asker.http.close()
    services = opened(tmp_path)
    with answering(make_app(services), services.closing, port):
        services.jobs.finish(lease, "SUCCEEDED", result={})
        assert [event.seq for event in events] == [3]
        client.close()
    services.db.close()


def test_an_event_that_only_came_in_part_is_not_told():
    lines = [
        "retry: 2000",
        "",
        ": alive",
        "",
        "id: 1",
        "event: log",
        'data: {"at_s": 2.5, "text": "a"}',
        "",
        "id: 2",
        "event: log",
    ]
    assert list(_events(iter(lines))) == [Event(1, "log", 2.5, {"text": "a"})]


# Fetching


@pytest.fixture
def job_id(asker):
    return asker.finished({"models/phone.onnx": CONTENT, "log.txt": b"log", "empty": b""})


def test_files_are_fetched_into_a_folder_and_found_again(client, job_id, tmp_path):
    files = client.fetch(job_id, tmp_path / "out")
    assert [str(file.relative_to(tmp_path / "out")) for file in files] == ["empty", "log.txt", "models/phone.onnx"]
    assert files[2].read_bytes() == CONTENT
    before = files[2].stat().st_mtime_ns
    files[1].write_bytes(b"spoilt")
    assert client.fetch(job_id, tmp_path / "out", ["log.txt", "models/phone.onnx"]) == [files[1], files[2]]
    assert (files[1].read_bytes(), files[2].stat().st_mtime_ns) == (b"log", before)
    assert list((tmp_path / "out").rglob(".*")) == []
    with pytest.raises(ClientError, match=r"it has empty, log\.txt"):
        client.fetch(job_id, tmp_path / "out", ["none"])


def test_a_fetch_that_breaks_off_goes_on_where_it_was(site, asker, job_id, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.connection.time.sleep", lambda seconds: None)
    with unreliable(site, asker, lambda n: "cut" if n in (1, 2, 3) else "") as client:
        (file,) = client.fetch(job_id, tmp_path, ["models/phone.onnx"])
    assert file.read_bytes() == CONTENT


def test_a_fetch_that_was_killed_goes_on_with_what_is_there(client, asker, job_id, tmp_path):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / "models").mkdir()
    part = tmp_path / "models" / f".phone.onnx.{sha256[:12]}.part"
    for there in (CONTENT[:1000], CONTENT):
        part.write_bytes(there)
        (file,) = client.fetch(job_id, tmp_path, ["models/phone.onnx"])
        assert file.read_bytes() == CONTENT
        file.unlink()
    part.write_bytes(b"something else")
    with pytest.raises(ClientError, match="came damaged"):
        client.fetch(job_id, tmp_path, ["models/phone.onnx"])
    assert client.fetch(job_id, tmp_path, ["models/phone.onnx"])[0].read_bytes() == CONTENT


def test_a_service_cannot_write_outside_of_the_folder(client, tmp_path, monkeypatch):
    for path in ("../escaped", "/etc/escaped", "a/../../escaped"):
        monkeypatch.setattr(
            client, "artefacts", lambda job_id, path=path: [{"path": path, "sha256": "0" * 64, "bytes": 1}]
        )
        with pytest.raises(ClientError, match="outside"):
            client.fetch("j", tmp_path / "out")


# Tokens and patience


def test_the_token_comes_from_the_environment_a_file_or_the_local_service(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("nas_local\n")
    (tmp_path / "other").write_text("nas_file\n")
    local = {"NAS_DATA": str(tmp_path)}
    assert token_for("http://127.0.0.1:8023", local) == "nas_local"
    assert token_for("http://127.0.0.1:8023", {**local, "NAS_TOKEN_FILE": str(tmp_path / "other")}) == "nas_file"
    assert token_for("https://nas.example", {**local, "NAS_TOKEN": "nas_given", "NAS_TOKEN_FILE": "x"}) == "nas_given"
    with pytest.raises(ClientError, match="cannot be read"):
        token_for("http://127.0.0.1:8023", {"NAS_DATA": str(tmp_path / "none")})


def test_the_local_services_token_is_not_shown_to_others(tmp_path):
    (tmp_path / "token").write_text("nas_local\n")
    for url in ("https://nas.example", "http://127.0.0.1.evil.example", "http://10.0.0.1:8023"):
        with pytest.raises(ClientError, match="needs a token"):
            token_for(url, {"NAS_DATA": str(tmp_path)})


def test_pauses_grow_and_end(monkeypatch):
    pauses, now = [], [0.0]
    monkeypatch.setattr("nas.connection.time.monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("nas.connection.time.sleep", sleep)
    patience = Patience(60.0)
    with pytest.raises(ClientError, match="away"):
        list(iter(lambda: patience.wait(ClientError("away")), "never"))
    assert sum(pauses) <= 60.0
    assert max(pauses) <= 5.0
    assert 10 < len(pauses) < 40


def test_it_tells_whose_token_it_is_and_enrols_machines(client, asker):
    assert client.me()["name"] == asker.user.name
    assert client.devices() == []
    assert client.enrol("board")["code"]
