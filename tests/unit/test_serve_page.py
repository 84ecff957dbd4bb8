import base64
import io
import shutil
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from serving import serving
from trunks import write_tuned

import rayft
from rayft.registry.registry import Registry
from rayft.serve.engine.load import load_engine
from rayft.serve.keys import create_key
from rayft.serve.listen import ListenSettings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
LONG = "a class whose name is too long for the narrow screen of a phone"
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


def _picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    colour = ((seed * 97) % 256, (seed * 57) % 256, (seed * 31) % 256)
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = _picture(2)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    zoo = write_tuned(home / "zoo", "zoo", seed=1, temperature=2.0)
    return {"zoo": zoo, "farm": write_tuned(home / "farm", "farm", seed=2, labels=("hen", LONG))}


@pytest.fixture(scope="module")
def engine(packages):
    place = str(packages["zoo"].parent / "registry")
    shelf = Registry.open(place)
    for name, package in packages.items():
        version = shelf.register(package, name)
    shelf.promote(version, "canary")
    shelf.promote(version, "champion")
    loaded = load_engine(["zoo", "farm@canary"], place)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def endpoint(engine):
    with serving(engine) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


class Seen:
    """What a page asked for and complained of."""

    def __init__(self, page):
        self.urls, self.complaints = [], []
        page.on("request", lambda request: self.urls.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def visit(browser, endpoint):
    """Open the page as somebody with a screen, settings and credentials of their own."""
    contexts = []

    def open_page(to=endpoint, **settings):
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.seen = Seen(page)
        page.goto(f"http://{to.address}/")
        return page

    yield open_page
    for context in contexts:
        context.close()


def _file(content=PICTURE, name="leaf.png", kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": content}


def _shown(page):
    """Wait for an answer; its bars as (label, text of the share)."""
    expect(page.locator("#answer")).to_be_visible()
    return [tuple(button.locator("span").all_inner_texts()) for button in page.locator("#bars button").all()]


def _expected(package, picture=PICTURE):
    answer = rayft.load(package).predict([picture])[0]
    order = sorted(zip(rayft.load(package).labels, answer.probabilities, strict=True), key=lambda pair: -pair[1])
    return [(label, "< 0.1 %" if 0 < share < 0.001 else f"{share * 100:.1f} %") for label, share in order]


_TRANSFER = """([kind, name, target, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, {type: "image/png"}));
  const more = {bubbles: true, cancelable: true, clipboardData: transfer, dataTransfer: transfer};
  const event = kind === "paste" ? new ClipboardEvent(kind, more) : new DragEvent(kind, more);
  document.querySelector(target).dispatchEvent(event);
}"""


_PIXELS = """(image) => {
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = Object.assign(document.createElement("canvas"), {width, height}).getContext("2d");
  canvas.drawImage(image, 0, 0);
  return Array.from(canvas.getImageData(0, 0, width, height).data);
}"""


def _transfer(page, kind, picture, target="body"):
    page.evaluate(_TRANSFER, [kind, "leaf.png", target, base64.b64encode(picture).decode()])


def test_a_picture_gets_the_predictors_probabilities_and_the_time_they_took(visit, packages, endpoint):
    page = visit()
    page.set_input_files("#file", _file())
    assert _shown(page) == _expected(packages["zoo"])
    best = _expected(packages["zoo"])[0]
    expect(page.get_by_role("status")).to_have_text(f"zoo version 1 says: {best[0]}, {best[1]}.")
    latency = page.inner_text("#latency")
    assert latency.startswith("Round trip ")
    assert {"decode", "queue", "compute"} <= set(latency.replace(":", "").split())
    # Chosen, dropped and pasted pictures go the same way; another model answers in its own words.
    page.select_option("#model", label="farm, version 1")
    expect(page.get_by_role("status")).to_contain_text("farm version 1 says")
    assert _shown(page) == _expected(packages["farm"])
    assert page.seen.complaints == []
    assert all(url.startswith((f"http://{endpoint.address}/", "blob:", "data:")) for url in page.seen.urls)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_may_be_dropped_or_pasted(visit, packages, kind):
    page = visit()
    other = _picture(5)
    assert _expected(packages["zoo"], other) != _expected(packages["zoo"])
    _transfer(page, kind, other)
    assert _shown(page) == _expected(packages["zoo"], other)


def test_a_picture_that_comes_before_the_list_of_models_is_classified(visit, packages):
    page, held = visit(), []
    page.route("**/v1/models", lambda route: held.append(route), times=1)
    page.reload()
    page.set_input_files("#file", _file())
    assert _shown(page) == _expected(packages["zoo"])
    held[0].continue_()
    expect(page.locator("#problem")).to_be_empty()
    assert _shown(page) == _expected(packages["zoo"])


def test_a_list_of_models_that_could_not_be_had_is_asked_for_again(visit, packages):
    page = visit()
    page.route("**/v1/models", lambda route: route.abort(), times=1)
    page.reload()
    expect(page.locator("#problem")).to_contain_text("The endpoint does not answer")
    page.set_input_files("#file", _file())
    assert _shown(page) == _expected(packages["zoo"])


def test_the_number_of_classes_is_bounded(visit, packages):
    page = visit()
    page.fill("#top", "1")
    page.set_input_files("#file", _file())
    assert _shown(page) == _expected(packages["zoo"])[:1]


def test_models_are_shown_with_versions_aliases_and_metrics(visit):
    page = visit()
    expect(page.locator("#models li")).to_have_count(2)
    zoo, farm = (card.inner_text().split("\n") for card in page.locator("#models li").all())
    assert zoo == ["zoo", "version", "1", "aliases", "none", "accuracy", "0.5"]
    assert farm == ["farm", "version", "1", "aliases", "canary, champion", "accuracy", "0.5"]


def test_the_heat_map_of_a_class_is_drawn_on_request_and_taken_away(visit, endpoint):
    page = visit()
    page.set_input_files("#file", _file())
    label = _shown(page)[1][0]
    with page.expect_response("**/v1/models/zoo:explain**") as answered:
        page.get_by_role("button", name=label).click()
    assert answered.value.headers["content-type"] == "image/png"
    expect(page.locator("#plain")).to_be_visible()
    heat = page.get_by_role("img", name=f"Heat map over leaf.png: red where it speaks most for {label}")
    assert heat.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    _, _, png = endpoint.ask("POST", f"/v1/models/zoo:explain?label={quote(label)}", PICTURE)
    sent = Image.open(io.BytesIO(png)).convert("RGBA")
    assert bytes(heat.evaluate(_PIXELS)) == sent.tobytes()
    assert page.locator("#bars [aria-pressed=true]").inner_text().startswith(label)
    page.get_by_role("button", name="without heat map").click()
    expect(page.get_by_role("img", name="The picture leaf.png")).to_be_visible()
    assert page.locator("#bars [aria-pressed=true]").count() == 0


def test_errors_are_told_in_words(visit):
    page = visit()
    problem = page.get_by_role("alert")
    page.get_by_role("button", name="Classify").click()
    expect(problem).to_have_text("Choose a picture first.")
    page.set_input_files("#file", _file(b"no picture"))
    expect(problem).to_contain_text("is not a picture")
    expect(page.locator("#answer")).to_be_hidden()
    page.set_input_files("#file", _file(name="notes.txt", kind="text/plain"))
    expect(problem).to_contain_text("There is no picture in what you chose")
    page.set_input_files("#file", _file())
    assert _shown(page)
    expect(problem).to_be_empty()
    page.context.set_offline(True)
    page.get_by_role("button", name="Classify").click()
    expect(problem).to_contain_text("The endpoint does not answer")


def test_the_page_needs_a_key_where_keys_are_on_and_keeps_it_in_memory_alone(visit, engine, tmp_path):
    file = tmp_path / "keys.json"
    whole, scoped = create_key(file, "ann"), create_key(file, "bob", ["farm"])
    with serving(engine, ListenSettings(port=0, keys=file)) as closed:
        status, headers, _ = closed.ask("GET", "/")
        assert (status, "Basic" in headers["www-authenticate"]) == (401, True)
        page = visit(closed, http_credentials={"username": "any", "password": whole})
        expect(page.locator("#models li")).to_have_count(2)
        page.get_by_text("API key").click()
        key = page.get_by_label("Key", exact=True)
        key.fill("rayft_wrong")
        key.press("Tab")
        expect(page.get_by_role("alert")).to_contain_text("The API key is unknown or has expired.")
        key.fill(scoped)
        key.press("Tab")
        expect(page.locator("#models li")).to_have_count(1)
        page.set_input_files("#file", _file())
        assert {label for label, _ in _shown(page)} == {"hen", LONG}
        kept = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length, location.href]")
        assert kept == ["", 0, 0, f"http://{closed.address}/"]
        assert not any(scoped in url for url in page.seen.urls)


def test_the_keyboard_alone_is_enough(visit):
    page = visit()
    # Choosers are caught some time after the first listener is there: long before the key is pressed.
    page.on("filechooser", lambda chooser: None)
    expect(page.locator("#models li")).to_have_count(2)

    def focus(selector):
        for _ in range(15):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    focus("#model")
    page.keyboard.press("ArrowDown")
    focus("#file")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(_file())
    expect(page.get_by_role("status")).to_contain_text("farm version 1 says")
    focus("#bars button")
    page.keyboard.press("Enter")
    expect(page.locator("#plain")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    focus("#plain")
    page.keyboard.press("Enter")
    # The focus goes back to where it came from, not to nowhere.
    assert page.evaluate("document.activeElement.matches('#bars button')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken_on_a_phone(visit, scheme):
    page = visit(**PHONE, color_scheme=scheme, reduced_motion="reduce")
    page.select_option("#model", label="farm, version 1")
    page.set_input_files("#file", _file())
    _shown(page)
    page.locator("#bars button").first.click()
    expect(page.locator("#plain")).to_be_visible()
    page.get_by_text("API key").click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#bars button'), '::before').transitionDuration") == "0s"
    )
    page.set_input_files("#file", _file(b"no picture"))
    expect(page.get_by_role("alert")).not_to_be_empty()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_policy_lets_nothing_run_but_the_pages_own_text(visit, endpoint):
    _, headers, _ = endpoint.ask("GET", "/")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    page = visit()
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.intruder = true";
      document.body.append(script);
    }""")
    assert page.evaluate("window.intruder") is None
    assert any("Content Security Policy" in complaint for complaint in page.seen.complaints)
