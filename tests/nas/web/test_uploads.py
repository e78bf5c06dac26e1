"""What people have sent: looked at, used for a first job, forgotten where no job needs it."""

import re

import pytest

from nas.service.errors import NotFound
from tests.nas.made_up_run import EVIL, Page
from tests.nas.web.test_pages import read, unsaid
from tests.nas.web.test_submit import form_on, the_job

IMAGES = {"rows": 51_200, "classes": 10, "columns": {"picture": "binary"}, "image": "picture", "label": "label"}
MODEL = {"nodes": 123, "parameters": 4_500_000, "inputs": [{"name": "x", "type": "t", "shape": ["batch", 3, None]}]}


def csrf_of(client) -> str:
    return re.search(r'name="csrf" value="([^"]+)"', client.get("/uploads").text)[1]


def test_an_upload_shows_what_is_in_it_and_an_admin_sees_everybodys(house, as_ann, as_bob, ann, bob) -> None:
    images = house.upload(bob, "parquet", "flowers.parquet", IMAGES)
    house.upload(ann, "onnx", EVIL, MODEL)
    everybodys, his = read(as_ann.get("/uploads")), read(as_bob.get("/uploads"))
    assert unsaid(his, "flowers.parquet", images.id, "51,200 rows", "10 classes", "6 B", "none") == []
    assert unsaid(everybodys, EVIL, "4,500,000 parameters", "x: batch × 3 × ?", "flowers.parquet", "bob") == []
    assert EVIL not in his.text
    assert not any(tag == "img" for tag, _ in everybodys.elements)


def test_an_upload_is_forgotten_unless_a_job_that_goes_on_needs_it(house, as_bob, bob) -> None:
    found = house.upload(bob, "parquet", "flowers.parquet", IMAGES)
    address, form = f"/uploads/{found.id}/delete", {"csrf": csrf_of(as_bob)}
    as_bob.post("/submit", form_on(as_bob.get(f"/submit?upload={found.id}")))
    job = the_job(house, bob)
    page = read(as_bob.get("/uploads"))
    assert f"/jobs/{job.id}" in page.values("href")
    assert "needed by a job" in page.text
    assert address not in page.values("action")
    assert job.id in read(as_bob.post(address, form), 409).text
    house.services.jobs.cancel(job.id)
    assert address in read(as_bob.get("/uploads")).values("action")
    assert as_bob.post(address, form).headers["location"] == "/uploads"
    with pytest.raises(NotFound):
        house.services.uploads.get(found.id)


def test_another_ones_upload_is_as_one_that_does_not_exist(house, as_bob, ann) -> None:
    hers = house.upload(ann, "parquet", "flowers.parquet", IMAGES)
    form = {"csrf": csrf_of(as_bob)}
    for upload_id in (hers.id, "u" + 26 * "0"):
        assert as_bob.get(f"/submit?upload={upload_id}").status_code == 404
        assert as_bob.post(f"/uploads/{upload_id}/delete", form).status_code == 404
    assert house.services.uploads.get(hers.id) == hers


def test_a_first_job_trains_on_images_by_the_columns_that_were_found(house, as_bob, bob) -> None:
    found = house.upload(bob, "parquet", "My flowers!.parquet", IMAGES)
    as_bob.post("/submit", form_on(as_bob.get(f"/submit?upload={found.id}")))
    asked = the_job(house, bob).spec["job"]
    assert asked["name"] == "My-flowers"
    assert asked["data"] == {"kind": "parquet", "path": f"upload:{found.id}", "image_column": "picture"}


def test_a_first_job_measures_a_model_and_weights_have_none(house, as_bob, bob) -> None:
    model, weights = house.upload(bob, "onnx", "m.onnx", MODEL), house.upload(bob, "safetensors", "w", {})
    form = form_on(as_bob.get(f"/submit?upload={model.id}"))
    as_bob.post("/submit", {**form, "do": "yaml"})
    assert the_job(house, bob).spec == {"kind": "profile", "model": model.id, "device": {"name": "cpu_t1"}}
    assert "kind safetensors" in read(as_bob.get(f"/submit?upload={weights.id}"), 422).text
    assert f"/jobs/{the_job(house, bob).id}" in Page(as_bob.get("/uploads").text).values("href")


def test_uploads_can_be_turned_over(house, as_bob, bob, monkeypatch) -> None:
    monkeypatch.setattr("nas.web.upload_pages.ON_A_PAGE", 2)
    names = ["number-0", "number-1", "number-2"]
    for name in names:
        house.upload(bob, "safetensors", name, {})
    first = read(as_bob.get("/uploads"))
    assert [name for name in names if name not in first.text] == ["number-0"]
    older = next(href for href in first.values("href") if "before=" in href)
    assert [name for name in names if name in read(as_bob.get(older)).text] == ["number-0"]
