"""The picture of a rehearsal's report: `python -m docs.rehearsal_picture [REPORT.html]`; without one it is made first.

What it shows is examples/plans/standard.yaml on simulated traffic, 20 rollouts of each scenario.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.admin.browsing import chromium

PICTURE = Path(__file__).parent / "images" / "rehearsal.png"
PLAN = Path(__file__).parents[1] / "examples" / "plans" / "standard.yaml"
WIDTH, HEIGHT = 1_060, 1_560  # CSS pixels, as much as a reader takes in at once


def main(report: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if report is None:
            report = Path(scratch) / "rehearsal.html"
            command = ["rehearse", str(PLAN), "--runs", "20", "--html", str(report)]
            subprocess.run([sys.executable, "-m", "control_plane", *command], check=True)
        with chromium() as browser:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(report.resolve().as_uri(), wait_until="load")
            page.screenshot(path=PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
