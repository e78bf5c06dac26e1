"""optuna-dashboard behind the login: the studies of one job, to be looked at and not to be changed."""

import pytest

from nas import pipeline
from nas.folder import RunFolder
from nas.job import read_job
from nas.searching.store import TrialStore
from nas.web.assets import DASHBOARD_PATHS, dashboard_file
from tests.nas.chromium import needs_chromium
from tests.nas.fakes import FakeDisplay, on_a_quiet_machine, write_job
from tests.nas.web.browsing import Tab, served
from tests.nas.web.conftest import logged_in
from tests.nas.web.house import House, searched


@pytest.fixture(scope="module")
def searched_house(tmp_path_factory):
    """A house in which a real little search has been run, its owner and the job."""
    root = tmp_path_factory.mktemp("optuna")
    house = House.at(root / "data")
    user = house.person("ann")
    job = house.submit(user)
    lease = house.claim(job)
    with pytest.MonkeyPatch.context() as patch:
        on_a_quiet_machine(patch, root)
        folder = RunFolder.create(root / "run", read_job(write_job(root / "job.yaml")))
        trials = lambda: TrialStore(house.services.settings.database_url, scope=job.id)  # noqa: E731
        context = pipeline.Run(folder, folder.job, 1, FakeDisplay(), trials=trials)
        for stage in ("train", "profile", "search"):
            pipeline.run_stage(context, stage)
    names = ("*.json", "tables/*.json", "predictors/*.json")
    files = [path for pattern in names for path in folder.root.glob(pattern)]
    house.leave(lease, {str(path.relative_to(folder.root)): path.read_bytes() for path in files})
    house.services.jobs.stage(lease, "search", 1.0)
    house.finish(lease)
    return house, user, job


def test_the_studies_are_those_of_the_job(searched_house) -> None:
    house, user, job = searched_house
    client = logged_in(house, user)
    base = f"/jobs/{job.id}/optuna"
    studies = client.get(f"{base}/api/studies").json()["study_summaries"]
    assert [study["study_name"] for study in studies] == ["little one", "little four"]
    detail = client.get(f"{base}/api/studies/{studies[0]['study_id']}?after=0").json()
    assert len(detail["trials"]) >= 10
    assert "number" in client.get(f"{base}/csv/{studies[0]['study_id']}").text.splitlines()[0].lower()


def test_its_page_stands_under_the_job_and_loads_nothing_from_elsewhere(searched_house) -> None:
    house, user, job = searched_house
    client = logged_in(house, user)
    base = f"/jobs/{job.id}/optuna"
    for path in (base, f"{base}/"):
        assert client.get(path).headers["location"] == f"{base}/dashboard"
    for path in (f"{base}/dashboard", f"{base}/dashboard/studies/0/trials"):
        page = client.get(path)
        assert page.status_code == 200
        assert "/static/dashboard-" in page.text
        assert "/static/bundle.js" not in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_written(searched_house, method) -> None:
    house, user, job = searched_house
    client = logged_in(house, user)
    base = f"/jobs/{job.id}/optuna"
    csrf = client.get("/jobs").text.partition('name="csrf" value="')[2].partition('"')[0]
    before = client.get(f"{base}/api/studies").json()
    as_json = {"Accept": "application/json"}
    for headers in (as_json, {**as_json, "X-CSRF-Token": csrf}):
        for path in ("api/studies/0", "api/studies", "api/studies/0/rename", "dashboard"):
            answer = client.request(method, f"{base}/{path}", headers=headers)
            assert answer.status_code == 403
            assert answer.headers["content-type"] == "application/json"
    assert client.get(f"{base}/api/studies").json() == before


def test_another_persons_studies_are_not_to_be_seen(searched_house) -> None:
    house, _, job = searched_house
    client = logged_in(house, house.person("bob"))
    for path in ("", "/", "/dashboard", "/api/studies", "/api/meta", "/csv/0"):
        assert client.get(f"/jobs/{job.id}/optuna{path}").status_code == 404


def test_a_job_that_has_not_searched_itself_has_no_studies(house, as_ann, ann) -> None:
    job = house.submit(ann)
    house.leave(house.claim(job), {"search.json": searched("pi")})
    assert as_ann.get(f"/jobs/{job.id}/optuna/dashboard").status_code == 404
    assert "optuna" not in as_ann.get(f"/jobs/{job.id}").text


def test_every_absolute_path_in_the_dashboards_script_is_known() -> None:
    """A new version of optuna-dashboard that builds its addresses otherwise must be looked at."""
    script = dashboard_file("public/bundle.js").decode()
    assert [text for text in DASHBOARD_PATHS if text not in script] == []
    assert script.count('url_prefix:"/dashboard"') == 1
    assert script.count("fetch(`") == script.count("fetch(`${this.baseURL}/")
    assert "/static/bundle.js" in dashboard_file("index.html").decode()


@pytest.mark.browser
@needs_chromium
def test_the_dashboard_works_in_a_browser_under_the_address_of_the_job(searched_house, browser) -> None:
    house, user, job = searched_house
    with served(house) as origin:
        tab = Tab(browser.new_page(viewport={"width": 1280, "height": 900}), origin).watch()
        tab.log_in(house, user)
        tab.go(f"/jobs/{job.id}/optuna/")
        tab.page.get_by_text("little one").click()
        tab.page.wait_for_url(f"**/jobs/{job.id}/optuna/dashboard/studies/*")
        tab.until("document.querySelectorAll('.js-plotly-plot .scatterlayer .points path').length >= 10")
        tab.page.reload()
        tab.page.get_by_text("Pareto Front").wait_for()
        assert (tab.complaints, tab.strangers) == ([], [])
        tab.page.close()
