"""A report in a real browser: nothing is asked for, nothing runs over, everything is reached by Tab."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import call

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
)
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, driven; it logs its console and what it asks for."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("no browser here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra: dev)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(trained_run, tmp_path_factory):
    """The report of a run, beside nothing else."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    result = call("report", trained_run, "--out", path, "--neighbours", 1, "--quiet")
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(params=SIZES)
def opened(request, browser, page):
    """The page in a window of this size."""
    width, height = SIZES[request.param]
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get_log("performance")
    browser.get(page.as_uri())
    assert browser.execute_script("return innerWidth") == width
    return browser


def asked_for(browser):
    """Addresses of all requests since the log was read last."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def test_nothing_but_the_file_is_asked_for_and_nothing_is_complained_of(opened, page):
    asked = asked_for(opened)
    assert page.as_uri() in asked and all(url.startswith(("file:", "data:")) for url in asked), asked
    assert opened.get_log("browser") == []


def test_the_page_is_as_wide_as_the_window_also_when_all_is_unfolded(opened):
    wide = "return [document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    for unfold in (False, True):
        if unfold:
            opened.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        scrolled, shown = opened.execute_script(wide)
        assert scrolled <= shown


def test_charts_stand_beside_each_other_where_there_is_room(opened):
    tops = opened.execute_script(
        "return [...document.querySelectorAll('.charts')].map("
        "all => [...all.children].map(one => Math.round(one.getBoundingClientRect().top)))"
    )
    several = [of_row for of_row in tops if len(of_row) > 1]
    is_wide = opened.execute_script("return innerWidth") > 1000
    assert len(several) >= 3 and all((len(set(of_row)) == 1) == is_wide for of_row in several), tops


def test_what_scrolls_shows_that_it_does(opened):
    """On a phone a row says so in words; whatever is wider than its box has a shadow at the edge."""
    words = opened.execute_script(
        "return [...document.querySelectorAll('.scrolls figcaption')]"
        ".map(one => getComputedStyle(one, '::after').content)"
    )
    is_phone = opened.execute_script("return innerWidth") < 640
    assert words and all(("scroll" in word) == is_phone for word in words)
    cut = opened.execute_script(
        "return [...document.querySelectorAll('.scroll, pre, nav ul')].filter(one => one.scrollWidth > one.clientWidth)"
        ".map(one => getComputedStyle(one).backgroundImage)"
    )
    assert all(image.count("linear-gradient") == 4 for image in cut) and (len(cut) > 3 or not is_phone)


def test_every_image_is_decoded_and_every_chart_has_text(opened):
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert opened.execute_script(broken) == 0 and opened.execute_script("return document.images.length") > 20
    sizes = opened.execute_script(
        "return [...document.querySelectorAll('.chart svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert len(sizes) > 40 and min(sizes) > 7


def test_tab_reaches_the_skip_link_first_and_every_fold(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    where = """
        const a = document.activeElement;
        return [a.className, a.tagName, [...document.querySelectorAll('summary')].indexOf(a)]"""
    reached = []
    for _ in range(opened.execute_script("return document.querySelectorAll('a, summary, [tabindex]').length")):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        found = opened.execute_script(where)
        if found in reached[:1]:
            break  # once around
        reached.append(found)
    assert reached[0][0] == "skip"
    folds = [place for _, tag, place in reached if tag == "SUMMARY"]
    assert folds == list(range(opened.execute_script("return document.querySelectorAll('summary').length")))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn(opened, scheme, tmp_path):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    picture = opened.get_screenshot_as_png()
    (tmp_path / "page.png").write_bytes(picture)
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    corner = int(pixels[-1, -1])
    assert (corner > 200) == (scheme == "light") and pixels.std() > 5 and len(np.unique(pixels)) > 20


def test_a_name_that_wants_to_run_does_not(browser, page, tmp_path):
    html = page.read_text().replace("</h1>", "<script>document.title = 'ran'</script></h1>", 1)
    (tmp_path / "hostile.html").write_text(html)
    browser.get((tmp_path / "hostile.html").as_uri())
    assert browser.title != "ran"  # the policy of the page would stop even what was not escaped
    browser.get_log("browser")
