"""Settings: from the environment, and through JSON to child processes."""

import json
from pathlib import Path

import pytest

from nas.service.errors import ServiceError
from nas.service.settings import Settings


def test_what_is_left_empty_lies_in_the_data_folder():
    settings = Settings(Path("/srv/nas"))
    assert settings.database_url == Path("/srv/nas/nas.sqlite")
    assert settings.blobs_url == "/srv/nas/blobs"
    assert settings.work_folder == Path("/srv/nas/work")
    assert settings.evaluators >= 1


def test_settings_come_from_variables():
    found = Settings.of(
        {
            "NAS_DATA": "/srv",
            "NAS_DATABASE": "postgresql://h/d",
            "NAS_BLOBS": "s3://bucket/nas",
            "NAS_WORK": "/fast",
            "NAS_EVALUATORS": "3",
            "NAS_RAY_ADDRESS": "ray:6379",
            "NAS_LEASE_S": "6",
            "NAS_RENEW_S": "2",
            "NAS_DATASETS": '{"photos": "/srv/photos"}',
            "NAS_GRACE_S": "",
            "HOME": "/root",
        }
    )
    assert found == Settings(
        Path("/srv"),
        database="postgresql://h/d",
        blobs="s3://bucket/nas",
        work=Path("/fast"),
        evaluators=3,
        ray_address="ray:6379",
        lease_s=6.0,
        renew_s=2.0,
        datasets={"photos": "/srv/photos"},
    )
    assert (found.database_url, found.blobs_url) == ("postgresql://h/d", "s3://bucket/nas")
    assert found.work_folder == Path("/fast")


def test_settings_survive_json():
    for settings in (
        Settings(Path("/srv")),
        Settings(Path("/srv"), work=Path("/fast"), datasets={"a": "b"}, evaluators=2),
    ):
        assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_secrets_are_not_shown():
    assert "secret" not in repr(Settings(Path("/srv"), database="postgresql://u:secret@h/d", blobs="s3://key:secret@b"))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("NAS_EVALUATORS", "many", "NAS_EVALUATORS: 'many' cannot be used"),
        ("NAS_EVALUATORS", "0", "evaluators must be at least 1, not 0"),
        ("NAS_DATASETS", "[]", "NAS_DATASETS: .*wanted a JSON object"),
        ("NAS_LEASE_S", "15", "a lease must last at least twice as long .* lease_s 15 and renew_s 10"),
        ("NAS_LEASE_S", "nan", "a lease must last"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(name, text, complaint):
    with pytest.raises(ServiceError, match=complaint) as caught:
        Settings.of({name: text})
    assert "\n" not in str(caught.value)
