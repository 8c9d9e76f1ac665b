"""Pictures of the admin page on seeded data: `python -m docs.screenshots [FOLDER]`, by default docs/images.

What they show is simulated traffic, judged by the real judge.
"""

import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser

from control_plane.app import create_app
from control_plane.settings import Settings
from tests.admin.browsing import chromium, serving
from tests.admin.showcase import Scene, seed_showcase

IMAGES = Path(__file__).parent / "images"
DESKTOP, PHONE = (1280, 1560), (390, 1560)  # CSS pixels, as much as a reader takes in at once


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        showcase, scene = seed_showcase(Path(scratch))
        showcase.close()
        settings = Settings(data_dir=Path(scratch), runs_scheduler=False)
        with serving(create_app(settings, lambda: scene.now)) as address, chromium() as browser:
            for name, path in pages(scene).items():
                shoot(browser, f"{address}{path}", folder / f"{name}.png", size=DESKTOP, scheme="light")
                shoot(browser, f"{address}{path}", folder / f"{name}-dark.png", size=DESKTOP, scheme="dark")
                shoot(browser, f"{address}{path}", folder / f"{name}-phone.png", size=PHONE, scheme="light")


def pages(scene: Scene) -> dict[str, str]:
    return {
        "admin-surfaces": "/",
        "admin-rollout": f"/rollouts/{scene.ramping}",
    }


def shoot(
    browser: Browser, address: str, file: Path, *, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(address, wait_until="load")
    page.screenshot(path=file)
    page.close()
    print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
