"""The pages in Chromium: what moves moves, keys and phones suffice, and nothing is asked of anybody else."""

import hashlib

import pytest

from tests.nas.chromium import needs_chromium
from tests.nas.web.browsing import Tab, served
from tests.nas.web.house import House, point, profiled, searched, trained
from tests.nas.web.test_submit import finished

pytestmark = [pytest.mark.browser, needs_chromium]

MODEL = bytes(range(256)) * 100
# Of text and of what is behind it; colours with an alpha are laid over one another from the page upwards. WCAG 2, 1.4.3.
CONTRAST = """
() => {
  const parse = (text) => { const m = text.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const light = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backdrop = (element) => {
    const chain = [];
    for (let at = element; at; at = at.parentElement) chain.unshift(parse(getComputedStyle(at).backgroundColor));
    return chain.reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, script, noscript, option")) continue;
    const style = getComputedStyle(element), under = backdrop(element);
    const [a, b] = [light(over(parse(style.color), under)), light(under)].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) faint.push([element.tagName, element.className, element.textContent.slice(0, 30), ratio]);
  }
  return faint;
}
"""


@pytest.fixture
def origin(house):
    with served(house) as origin:
        yield origin


@pytest.fixture
def open_tab(browser, origin):
    """Opens tabs, which at the end must have had nothing to complain of and asked nobody else."""
    contexts, tabs = [], []

    def opened(width: int = 1280, **how) -> Tab:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **how))
        tabs.append(Tab(contexts[-1].new_page(), origin).watch())
        return tabs[-1]

    yield opened
    for context in contexts:
        context.close()
    assert [tab.complaints for tab in tabs if tab.complaints] == []
    assert [tab.strangers for tab in tabs if tab.strangers] == []


@pytest.fixture
def tab(open_tab, house, ann) -> Tab:
    """A tab of somebody who has logged in."""
    tab = open_tab()
    tab.log_in(house, ann)
    return tab


def busy(house: House, user):
    """A search that has found something and goes on, with its lease."""
    job = house.submit(user, "on every device")
    lease = house.claim(job)
    house.leave(lease, {"train.json": trained(), "models/pi-knee/model.onnx": MODEL})
    house.services.jobs.stage(lease, "train", 42.0)
    house.services.jobs.progress(lease, "search", 3, 10, "generation 1")
    house.tell(lease, point("pi", 1, 0.9, 4.0), ("log", {"level": "info", "text": "it begins", "stage": "search"}))
    return job, lease


def drawn(tab: Tab, plot: str, name: str) -> int:
    """Points of a trace, or -1 where there is none of the name."""
    script = """([plot, name]) => (document.getElementById(plot).data ?? [])
        .filter((trace) => trace.name === name).map((trace) => trace.x.length)[0] ?? -1"""
    return tab.page.evaluate(script, [plot, name])


def test_a_job_is_submitted_through_the_form_with_its_yaml_in_step(house, tab, ann) -> None:
    page = tab.page
    page.get_by_role("link", name="Submit", exact=True).click()
    evaluations = page.get_by_role("group", name="Search").get_by_label("evaluations")
    page.get_by_label("epochs").fill("3")
    tab.until("document.getElementById('yaml').value.includes('epochs: 3')")
    yaml = page.get_by_label("As YAML")
    evaluations.fill("1")
    page.get_by_text("search.evaluations must be from 4").wait_for()
    assert evaluations.get_attribute("aria-invalid") == "true"
    yaml.fill("# mine")
    page.get_by_text("It was changed by hand").wait_for()
    evaluations.fill("12")
    page.get_by_text("search.evaluations must be from 4").wait_for(state="detached")
    assert yaml.input_value() == "# mine"
    page.get_by_role("button", name="Submit", exact=True).click()
    page.wait_for_url("**/jobs/j*")
    (job,) = house.services.jobs.page(ann.id)
    assert page.url.endswith(job.id)
    assert (job.spec["job"]["train"]["epochs"], job.spec["job"]["search"]["evaluations"]) == (3, 12)


def test_what_was_filled_before_the_script_came_is_in_the_yaml_too(tab) -> None:
    page = tab.page
    held = []
    page.route("**/submit*.js*", lambda route: held.append(route))
    page.goto(tab.origin + "/submit", wait_until="commit")
    page.get_by_label("epochs").fill("3")
    assert "epochs: 3" not in page.get_by_label("As YAML").input_value()
    held[0].continue_()
    tab.until("document.getElementById('yaml').value.includes('epochs: 3')")
    assert not page.get_by_text("It was changed by hand").is_visible()


def test_the_front_grows_as_it_is_found_and_ends_with_the_result(house, tab, ann) -> None:
    job, lease = busy(house, ann)
    tab.go(f"/jobs/{job.id}")
    tab.until("document.getElementById('front').data")
    assert drawn(tab, "front", "pi") == 1
    house.tell(lease, *(point("pi", n, 0.9 + n / 100, 4.0 + n) for n in range(2, 6)), point("phone", 9, 0.8, 1.0))
    house.tell(lease, ("volume", {"device": "pi", "seed": 7, "evaluations": 10, "hypervolume": 0.5}))
    house.tell(lease, ("measured", {"device": "pi", "arch_id": "arch0002", "latency_ms": 6.2}))
    house.tell(lease, ("log", {"level": "warning", "text": "<b>it is warm</b>", "stage": "search"}))
    house.services.jobs.progress(lease, "profile", 1, 4, "another device")
    tab.until("document.getElementById('front').data?.some((trace) => trace.name === 'phone')")
    tab.page.get_by_text("<b>it is warm</b>").wait_for()
    tab.page.get_by_text("profile: another device").wait_for()
    tab.until("document.getElementById('volume').data")
    assert drawn(tab, "front", "pi") == 5
    assert drawn(tab, "front", "pi, measured") == 1
    assert drawn(tab, "volume", "pi") == 1
    house.leave(lease, {"search.json": searched("pi", "phone")})
    house.services.jobs.stage(lease, "search", 9.0)
    house.finish(lease)
    tab.page.get_by_role("status").get_by_text("succeeded").wait_for()
    tab.until("document.getElementById('volume').data?.some((trace) => trace.name === 'pi, random')")
    assert drawn(tab, "front", "pi") == 3
    assert drawn(tab, "front", "pi, measured") == 3
    assert drawn(tab, "volume", "pi, uniform") == 2
    tab.page.get_by_role("link", name="search.json").wait_for()


def test_a_live_page_outlives_a_restart_and_gives_its_connection_back_while_nobody_looks(tmp_path, browser) -> None:
    house = House.at(tmp_path / "data")
    ann = house.person("ann")
    context = browser.new_context()
    with served(house) as origin:
        tab = Tab(context.new_page(), origin).watch()
        tab.page.add_init_script("""
            window.sources = [];
            window.EventSource = class extends EventSource { constructor(url) { super(url); sources.push(this); } };
        """)
        tab.log_in(house, ann)
        job, lease = busy(house, ann)
        tab.go(f"/jobs/{job.id}")
        tab.until("sources.at(-1)?.readyState === EventSource.OPEN")
        # As a proxy answers while nothing is behind it, after which a browser does not try again by itself.
        tab.page.route("**/events?*", lambda route: route.fulfill(status=503))
    tab.until("sources.at(-1).readyState === EventSource.CLOSED")
    tab.page.get_by_text("The connection to the service is lost").wait_for()
    tab.page.unroute("**/events?*")
    again = House.at(tmp_path / "data")
    again.told = house.told
    again.tell(lease, ("log", {"level": "info", "text": "while it was away"}))
    with served(again, int(origin.rpartition(":")[2])):
        tab.page.get_by_text("while it was away").wait_for()
        tab.until("document.getElementById('lost').hidden")
        hide = """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        tab.page.evaluate(hide, True)
        assert tab.page.evaluate("sources.every((each) => each.readyState === EventSource.CLOSED)")
        again.tell(lease, ("log", {"level": "info", "text": "behind its back"}))
        again.finish(lease)
        tab.page.evaluate(hide, False)
        tab.page.get_by_role("status").get_by_text("succeeded").wait_for()
        tab.until("document.title.startsWith('succeeded')")
        said = tab.page.locator("#log li span").all_inner_texts()
        assert said[-2:] == ["while it was away", "behind its back"]
        assert len(set(said)) == len(said)
        context.close()


def test_a_file_is_uploaded_with_its_progress_and_a_refusal_is_told(house, tab, ann, tmp_path) -> None:
    good, bad = tmp_path / "weights.safetensors", tmp_path / "images.parquet"
    header = b'{"x":{"dtype":"F32","shape":[250000],"data_offsets":[0,1000000]}}'
    good.write_bytes(len(header).to_bytes(8, "little") + header + bytes(1_000_000))
    bad.write_bytes(b"PAR1 not at all")
    tab.go("/uploads")
    page = tab.page
    page.get_by_label("File").set_input_files(good)
    assert page.get_by_label("Kind").input_value() == "safetensors"
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("region", name="Uploads").get_by_text("250,000 parameters").wait_for()
    (kept,) = house.services.uploads.page(ann.id)
    assert (kept.name, kept.bytes) == (good.name, good.stat().st_size)
    page.get_by_label("File").set_input_files(bad)
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("alert").get_by_text("this Parquet file cannot be read").wait_for()
    tab.complaints.clear()  # a browser notes each answer that is a refusal
    page.locator("summary", has_text="Delete").press("Enter")
    page.get_by_role("button", name="Delete weights.safetensors now").press("Enter")
    page.get_by_text("Nothing was uploaded yet").wait_for()
    house.services.uploads.close()


def test_thousands_of_events_are_drawn_in_few_strokes(house, tab, ann) -> None:
    job, lease = busy(house, ann)
    tab.go(f"/jobs/{job.id}")
    tab.until("document.getElementById('front').data")
    tab.page.evaluate("""() => {
        window.strokes = 0;
        const react = Plotly.react;
        Plotly.react = (...all) => { window.strokes += 1; return react(...all); };
    }""")
    for batch in range(8):
        points = [
            point("pc", 250 * batch + n, 0.5 + (250 * batch + n) / 5000, 10 + batch + n / 250) for n in range(2, 252)
        ]
        lines = [("log", {"level": "info", "text": f"line {batch} {n}"}) for n in range(200)]
        house.tell(lease, *points, *lines)
    tab.page.get_by_text("line 7 199", exact=True).wait_for()
    tab.until("document.getElementById('front').data?.some((trace) => trace.x.length === 2000)")
    assert tab.page.evaluate("window.strokes") < 200
    assert tab.page.locator("#log li").count() == 1000


def test_a_file_is_downloaded_as_it_was_left(house, tab, ann) -> None:
    job, _ = busy(house, ann)
    tab.go(f"/jobs/{job.id}")
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="models/pi-knee/model.onnx").click()
    with open(download.value.path(), "rb") as file:  # noqa: PTH123 - a path of the browser's
        assert hashlib.sha256(file.read()).digest() == hashlib.sha256(MODEL).digest()
    assert download.value.suggested_filename == "model.onnx"


def test_the_list_is_alive_and_a_job_is_cancelled_from_it_by_keys_alone(house, tab, ann) -> None:
    job, _ = busy(house, ann)
    tab.page.get_by_role("button", name="Cancel on every device").wait_for()
    assert tab.page.get_by_role("progressbar").count() == 1
    tab.go("/jobs")
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.page.keyboard.press("Enter")
    for _ in range(20):
        tab.page.keyboard.press("Tab")
        focused = tab.page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''")
        outline = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        if focused.startswith("Cancel"):
            break
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("region", name="Jobs").get_by_text("being cancelled").wait_for()
    assert house.services.jobs.get(job.id).state == "CANCELLING"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_and_can_be_read(house, open_tab, ann, scheme) -> None:
    before = finished(house, ann)
    job, lease = busy(house, ann)
    house.leave(lease, {"profile.json": profiled(("desk", ""))})
    failed = house.submit(ann, "failed")
    house.finish(house.claim(failed), "FAILED", error={"kind": "user", "message": "x" * 300, "traceback": "y" * 300})
    tab = open_tab(360, color_scheme=scheme, has_touch=True)
    tab.go("/login")
    assert tab.overflow_px() <= 0
    tab.log_in(house, ann)
    paths = ("/jobs", f"/jobs/{job.id}", f"/jobs/{failed.id}", "/submit", f"/submit?from={before.id}&kind=search")
    house.upload(ann, "onnx", 3 * "a-long-name-", {"nodes": 123, "inputs": [{"name": "x", "shape": [1, 3, 224, 224]}]})
    house.services.people.issue(ann, ("jobs", "models"), 9 * "label")
    for path in (*paths, "/uploads", "/tokens", "/supernets", "/devices", "/devices/-"):
        tab.go(path)
        assert tab.overflow_px() <= 0, path
        assert tab.page.evaluate(CONTRAST) == [], path


def test_those_who_want_no_motion_get_none(house, open_tab, ann) -> None:
    busy(house, ann)
    tab = open_tab(reduced_motion="reduce")
    tab.log_in(house, ann)
    mark = "getComputedStyle(document.querySelector('.state.RUNNING'), '::before').animationName"
    assert tab.page.evaluate(mark) == "none"


def test_without_scripts_a_job_is_submitted_watched_and_cancelled(house, open_tab, ann) -> None:
    tab = open_tab(java_script_enabled=False)
    tab.log_in(house, ann)
    tab.go("/submit")
    tab.page.get_by_label("name", exact=True).first.fill("by-hand")
    tab.page.get_by_role("button", name="Submit", exact=True).click()
    tab.page.get_by_role("heading", name="by-hand").wait_for()
    tab.page.get_by_role("button", name="Cancel").click()
    assert tab.page.get_by_role("status").inner_text() == "cancelled"
