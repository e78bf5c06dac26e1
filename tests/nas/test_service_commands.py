"""The commands of the service: users and tokens on its host, jobs from anywhere, backups, help."""

import json
import re

import pytest
import yaml

from tests.nas.api.hosted import SPEC, free_port, hosted
from tests.nas.conftest import commanded

pytest_plugins = ["tests.nas.api.alone"]


# Users and tokens


def test_users_and_tokens_are_made_listed_and_revoked_on_the_host(alone):
    (alone / "data").mkdir()
    data = ("--data", "data")
    assert commanded("users", "add", "ada", "--admin", *data).out == "ada (admin) added\n"
    assert commanded("users", "add", "ben", *data, "--json").json["name"] == "ben"
    assert "already" in commanded("users", "add", "ben", *data).complaint
    assert [user["name"] for user in commanded("users", "list", *data, "--json").json] == ["ada", "ben"]
    assert commanded("users", "limit", "ben", "--max-running", 1, *data).out.startswith(
        "ben: 1 jobs side by side, 1000 "
    )
    assert commanded("users", "limit", "ben", *data, "--json").json["max_running"] == 1
    assert "no user" in commanded("users", "limit", "cleo", *data).complaint
    secret = commanded(
        "tokens", "create", "--user", "ben", "--scope", "jobs,models", "--label", "ci", *data
    ).out.strip()
    assert re.fullmatch(r"nas_[\w-]{43}", secret)
    (token,) = commanded("tokens", "list", "--user", "ben", *data, "--json").json
    assert (token["label"], token["scopes"]) == ("ci", ["jobs", "models"])
    assert secret not in commanded("tokens", "list", *data).out
    assert token["id"] in commanded("tokens", "list", *data).out
    assert commanded("tokens", "revoke", token["id"], *data, "--json").json["revoked_s"]
    assert "no token" in commanded("tokens", "revoke", "k-none", *data).complaint
    assert "no user 'cleo'" in commanded("tokens", "create", "--user", "cleo", *data).complaint
    assert "unknown scope" in commanded("tokens", "create", "--user", "ben", "--scope", "root", *data).complaint
    assert "/login?code=nas_" in commanded("users", "link", "ben", *data).out


def test_a_folder_without_a_service_is_said_to_be_none(alone):
    assert "no such folder" in commanded("users", "list", "--data", "none").complaint


# nas jobs


@pytest.fixture
def service(alone, monkeypatch):
    with hosted(alone / "data") as site:
        asker = site.person()
        monkeypatch.setenv("NAS_SERVER", site.url)
        monkeypatch.setenv("NAS_TOKEN", asker.secret)
        (alone / "job.yaml").write_text(yaml.safe_dump(SPEC["job"]))
        yield asker
        asker.http.close()


def test_a_job_is_submitted_listed_shown_and_cancelled(service):
    job_id = commanded("jobs", "submit", "job.yaml", "--set", "search.evaluations=40", "--priority", "3").out.strip()
    job = commanded("jobs", "show", job_id, "--json").json
    assert (job["kind"], job["priority"], job["spec"]["job"]["search"]) == ("run", 3, {"evaluations": 40})
    assert [each["id"] for each in commanded("jobs", "list", "--state", "queued", "--json").json] == [job_id]
    listed = commanded("jobs", "list").out
    assert job_id in listed
    assert "queued (1 in the queue)" in listed
    assert "queued" in commanded("jobs", "show", job_id).out
    assert commanded("jobs", "cancel", job_id).out == f"{job_id}  cancelled\n"
    assert commanded("jobs", "list", "--state", "QUEUED", "--json").json == []


def test_watching_ends_with_the_job_and_with_its_fate(service):
    done = service.finished({})
    said = commanded("jobs", "watch", done)
    assert said.code == 0
    assert [line.split()[1] for line in said.out.splitlines()] == ["queued", "running", "succeeded"]
    lease = service.running()
    service.hosted.services.events.append(lease, [("log", {"text": "hello"}), ("unheard-of", {"a": 1})], 0)
    service.hosted.services.jobs.finish(lease, "FAILED", error={"kind": "user", "message": "no images"})
    failed = commanded("jobs", "watch", lease.job_id)
    assert failed.code == 1
    assert "hello" in failed.out
    assert "failed no images" in failed.out
    events = [json.loads(line) for line in commanded("jobs", "watch", lease.job_id, "--json").out.splitlines()]
    assert [event["kind"] for event in events] == ["state", "state", "log", "unheard-of", "state"]
    assert "user: no images" in commanded("jobs", "show", lease.job_id).out


def test_files_are_listed_and_fetched(service, alone):
    job_id = service.finished({"models/phone.onnx": b"model", "log.txt": b"log"})
    assert [file["path"] for file in commanded("jobs", "files", job_id, "--json").json] == [
        "log.txt",
        "models/phone.onnx",
    ]
    assert "models/phone.onnx" in commanded("jobs", "files", job_id).out
    assert commanded("jobs", "fetch", job_id, "--out", "out").code == 0
    assert (alone / "out/models/phone.onnx").read_bytes() == b"model"
    assert commanded("jobs", "fetch", job_id, "log.txt", "--json").json == [f"{job_id}/log.txt"]


def test_a_stage_goes_on_from_a_job(service):
    document = json.dumps({"job": SPEC["job"]}).encode()
    parent = service.finished({"train.json": b"{}", "job.json": document})
    job = commanded("jobs", "submit", "--from", parent, "--set", "search.evaluations=40", "--json").json
    assert (job["kind"], job["parent"], job["spec"]["set"]) == ("search", parent, {"search.evaluations": 40})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit"], "give one of: a job file, or --from ID"),
        (["submit", "job.yaml", "--from", "x"], "give one of: a job file, or --from ID"),
        (["submit", "none.yaml"], "none.yaml: cannot be read"),
        (["submit", "job.yaml", "--kind", "dance"], "--kind must be one of"),
        (["submit", "job.yaml", "--set", "trian.epochs=2"], "did you mean 'train'?"),
        (["submit", "job.yaml", "--set", "train"], "is not of the form key.sub=value"),
        (["show", "j-none"], "no such job"),
        (["list", "--state", "LOST"], "query.state"),
        (["fetch", "j-none"], "no such job"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(service, arguments, said):
    assert said in commanded("jobs", *arguments).complaint


def test_a_service_that_is_away_ends_a_command_with_one(alone, monkeypatch):
    monkeypatch.setattr("nas.jobs_cli.PATIENCE_S", 0.0)
    monkeypatch.setenv("NAS_TOKEN", "nas_x")
    said = commanded("jobs", "list", "--server", f"http://127.0.0.1:{free_port()}")
    assert (said.code, said.out) == (1, "")
    assert re.fullmatch(r"nas: .* cannot be reached .*\n", said.err)


def test_without_a_token_it_is_said_where_one_may_come_from(alone):
    assert "set NAS_TOKEN or NAS_TOKEN_FILE" in commanded("jobs", "list").complaint
    assert "set NAS_TOKEN" in commanded("jobs", "list", "--server", "https://nas.example").complaint


# Help and logs


@pytest.mark.parametrize(
    "command",
    [
        *("serve", "worker", "backup", "restore", "users add", "users list", "users limit", "users link"),
        *("tokens create", "tokens list", "tokens revoke"),
        *(f"jobs {name}" for name in ("submit", "list", "show", "watch", "cancel", "files", "fetch")),
    ],
)
def test_every_command_has_help_with_an_example(command):
    said = commanded(*command.split(), "--help")
    assert said.code == 0
    assert re.search(rf"Example: nas {command}\b", said.out)


def test_no_option_takes_a_secret():
    """What stands on a command line is seen by everybody on the machine."""
    for command in ("serve", "worker", "jobs submit", "users add", "tokens create"):
        assert not re.search(r"--(token|password|secret)\b", commanded(*command.split(), "--help").out)


def test_backup_and_restore_move_a_service(alone):
    (alone / "data").mkdir()
    assert commanded("users", "add", "ada", "--data", "data").code == 0
    assert commanded("backup", "nas.tar", "--data", "data").code == 0
    assert commanded("restore", "nas.tar", "--data", "other").code == 0
    assert [user["name"] for user in commanded("users", "list", "--data", "other", "--json").json] == ["ada"]
    assert commanded("restore", "nas.tar", "--data", "other").code == 2
