"""The admin page in a real browser, with and without JavaScript."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install playwright")

from playwright.sync_api import Browser, Page, expect

from control_plane.app import create_app
from control_plane.domain.model_version import Surface
from control_plane.domain.rollout import Command, Phase
from control_plane.domain.surface_graph import Edge
from control_plane.registry import arrivals, rollouts, surfaces
from control_plane.registry.session import Sessions, make_engine
from control_plane.settings import Settings
from tests.admin.browsing import CHROMIUM, chromium, serving
from tests.admin.showcase import Scene, Showcase
from tests.builders import a_plan

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is missing: apt-get install chromium"),
]

Scheme = Literal["light", "dark"]

PATHS = [
    *("/", "/rollouts", "/rollouts/1", "/rollouts/2", "/rollouts/3", "/versions", "/history", "/verdicts/1"),
    *("/freezes", "/freezes/declare", "/releases", "/webhooks", "/history/served?surface=search&at=2026-03-10+12:00"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def sessions(seeded: tuple[Path, Scene], tmp_path: Path) -> Iterator[Sessions]:
    shutil.copy(seeded[0], tmp_path / "registry.db")
    engine = make_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    yield Sessions(engine)
    engine.dispose()


@pytest.fixture
def address(seeded: tuple[Path, Scene], tmp_path: Path, sessions: Sessions) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path, runs_scheduler=False)
    with serving(create_app(settings, lambda: seeded[1].now)) as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_load_without_an_error_and_never_scroll_sideways(
    browser: Browser, address: str, width: int, scheme: Scheme
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    widths = {}
    for path in PATHS:
        page.goto(address + path)
        widths[path] = page.evaluate("document.documentElement.scrollWidth")

    assert complaints == []
    assert {path: found for path, found in widths.items() if found > width} == {}
    page.close()


@pytest.mark.parametrize("has_scripts", [True, False])
def test_rolling_back_by_the_button(browser: Browser, address: str, sessions: Sessions, has_scripts: bool) -> None:
    page = browser.new_context(java_script_enabled=has_scripts).new_page()
    page.goto(address)

    card = page.locator("article", has=page.get_by_role("heading", name="Home feed"))
    card.get_by_role("button", name="Roll back").click()
    page.get_by_label("Reason").fill("pager at 3 am")
    page.get_by_label("Your name").fill("ada")
    page.get_by_role("button", name="Roll back now").click()

    expect(card.get_by_text("rolled back by ada: pager at 3 am")).to_be_visible()
    with sessions.reading() as session:
        assert surfaces.get(session, Surface("home_feed")).candidate_bp == 0
    page.context.close()


@pytest.mark.parametrize("has_scripts", [True, False])
def test_stopping_the_line_and_lifting_it_by_the_buttons(browser: Browser, address: str, has_scripts: bool) -> None:
    page = browser.new_context(java_script_enabled=has_scripts).new_page()
    page.goto(f"{address}/rollouts/1")

    page.get_by_role("banner").get_by_role("button", name="Stop the line").click()
    page.get_by_label("Reason").fill("the checkout is down")
    page.get_by_label("Your name").fill("ada")
    page.locator(".confirm").get_by_role("button", name="Stop the line").click()
    stopped = page.get_by_role("alert").filter(has_text="All surfaces are frozen by ada: the checkout is down.")
    expect(stopped).to_be_visible()
    stopped.get_by_role("button", name="Lift").click()
    page.get_by_label("Reason").fill("it is up")
    page.locator(".confirm").get_by_role("button", name="Lift").click()

    expect(page.get_by_text("lifted by ada: it is up")).to_be_visible()
    expect(stopped).to_have_count(0)
    page.context.close()


def test_the_question_is_a_dialog_that_can_be_left_by_escape(
    browser: Browser, address: str, sessions: Sessions
) -> None:
    page = browser.new_page()
    page.goto(f"{address}/rollouts/1")

    page.get_by_role("button", name="Hold").click()
    question = page.get_by_role("dialog", name="Hold rollout 1 of Home feed?")
    expect(question).to_be_visible()
    page.keyboard.press("Escape")

    expect(question).to_be_hidden()
    assert page.url == f"{address}/rollouts/1"
    page.close()


def test_a_page_follows_what_others_do(
    browser: Browser, address: str, sessions: Sessions, seeded: tuple[Path, Scene]
) -> None:
    page = browser.new_page()
    page.goto(f"{address}/rollouts/1")
    expect(page.get_by_text("live", exact=True)).to_be_visible()

    with sessions.writing() as session:
        rollouts.apply_command(session, seeded[1].ramping, Command.HOLD, by="grace", now=seeded[1].now)

    expect(page.locator("#standing .chip")).to_have_text("held at 25 %")
    assert rollout_phase(sessions, seeded[1]) is Phase.HELD
    page.close()


def test_what_is_being_typed_is_not_taken_away(
    browser: Browser, address: str, sessions: Sessions, seeded: tuple[Path, Scene]
) -> None:
    page = browser.new_page()
    page.goto(f"{address}/rollouts/1")
    page.get_by_role("button", name="Skip").click()
    page.get_by_label("Reason").fill("half a sent")

    with sessions.writing() as session:
        rollouts.apply_command(session, seeded[1].ramping, Command.HOLD, by="grace", now=seeded[1].now)
    page.wait_for_timeout(1_500)

    expect(page.get_by_label("Reason")).to_have_value("half a sent")
    page.get_by_role("button", name="Skip", exact=True).last.click()
    expect(page.get_by_role("heading")).to_have_text("That was not carried out")
    assert rollout_phase(sessions, seeded[1]) is Phase.HELD
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(browser: Browser, address: str, scheme: Scheme) -> None:
    page = browser.new_page(color_scheme=scheme)
    faint = {}
    for path in PATHS:
        page.goto(address + path)
        faint.update(faint_words(page))

    assert faint == {}
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_release_s_graph_can_be_read_followed_and_rolled_back(
    browser: Browser, address: str, sessions: Sessions, seeded: tuple[Path, Scene], width: int, scheme: Scheme
) -> None:
    release_id = release_two(sessions, seeded[1])
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(f"{address}/releases/{release_id}")

    assert faint_words(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Roll the whole release back").click()
    page.get_by_label("Reason").fill("clicks fell")
    page.get_by_role("button", name="Roll all back now").click()
    expect(page.get_by_text("every surface of it is back already")).to_be_visible()
    page.locator("svg a", has_text="Boards").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Boards: rollout")
    page.close()


def release_two(sessions: Sessions, scene: Scene) -> int:
    showcase = Showcase(str(sessions.engine.url))
    showcase.now = scene.now
    candidates = {}
    for surface in (Surface("ads"), Surface("boards")):
        showcase.open(surface)
        candidates[surface] = showcase.register(surface, "joint-2026-06-01")
    edge = Edge(upstream=Surface("ads"), downstream=Surface("boards"), share_bp=2_500, held_seconds=7_200.0)
    with sessions.writing() as session:
        release_id = arrivals.create_release(session, candidates, a_plan(), [edge], by="grace", now=scene.now)
    showcase.close()
    return release_id


def faint_words(page: Page) -> dict[str, float]:
    """Words whose contrast is below 4.5 : 1 (WCAG AA), with that contrast."""
    found: dict[str, float] = page.evaluate(
        """() => {
        const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (element) => {
          for (let e = element; e; e = e.parentElement) {
            const colour = parts(getComputedStyle(e).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
          }
          return [255, 255, 255];
        };
        const faint = {};
        for (const element of document.querySelectorAll("body *")) {
          const words = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join(" ");
          const style = getComputedStyle(element);
          if (!words.trim() || style.visibility === "hidden" || !element.getClientRects().length) continue;
          if (element.closest(".visually-hidden, .skip, :disabled")) continue;
          const ink = element.closest("svg") ? style.fill : style.color;
          const [a, b] = [light(parts(ink)), light(behind(element))].sort((x, y) => y - x);
          const contrast = (a + 0.05) / (b + 0.05);
          if (contrast < 4.5) faint[words.slice(0, 60)] = contrast;
        }
        return faint;
      }"""
    )
    return found


def rollout_phase(sessions: Sessions, scene: Scene) -> Phase:
    with sessions.reading() as session:
        return rollouts.get(session, scene.ramping).phase
