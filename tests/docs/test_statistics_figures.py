"""Numbers and pictures in docs/statistics.md come from the code, and are what the code says today."""

import json
import re
from xml.etree import ElementTree

import pytest

from docs.figures import IMAGES, PAGE, PICTURES, TABLES, image_of
from docs.statistics_figures import looking, measured, ramping, scoring
from docs.statistics_figures.drawing import Picture
from docs.statistics_figures.table import table_names, with_tables

SVG = "{http://www.w3.org/2000/svg}svg"
PLACE = "before\n<!-- table one: written by `make figures` -->\nold\n<!-- end of table -->\nafter"


def test_every_picture_of_the_page_exists_and_every_picture_made_is_on_the_page() -> None:
    named = re.findall(r"\]\(images/(statistics-[\w-]+\.svg)\)", PAGE.read_text())

    assert sorted(named) == sorted(image_of(name).name for name in PICTURES)
    assert sorted(path.name for path in IMAGES.glob("statistics-*")) == sorted(named)
    assert all(ElementTree.parse(IMAGES / name).getroot().tag == SVG for name in named)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_costs_little_is_what_the_code_gives_today(name: str) -> None:
    page = PAGE.read_text()

    assert with_tables(page, {name: TABLES[name]()}) == page


@pytest.mark.parametrize("make", [looking.one_run, scoring.maturity])
def test_a_quick_simulation_gives_the_table_on_the_page(make: Picture) -> None:
    _, tables = make()

    page = PAGE.read_text()
    assert with_tables(page, tables) == page


def test_a_picture_is_the_same_text_each_time() -> None:
    assert ramping.stage_margins()[0] == ramping.stage_margins()[0]


def test_every_place_for_a_table_has_its_maker() -> None:
    told_by_pictures = {"maturity", "one-run", "psi"}

    assert sorted(table_names(PAGE.read_text())) == sorted(TABLES.keys() | told_by_pictures)


def test_a_table_replaces_what_stood_in_its_place() -> None:
    page = with_tables(PLACE, {"one": "new"})

    assert page == PLACE.replace("old", "new")
    assert table_names(page) == ["one"]


def test_a_table_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="one place for the table 'two'"):
        with_tables(PLACE, {"two": "new"})


def test_what_no_full_run_has_measured_is_not_claimed() -> None:
    quick = json.dumps({"name": "guardrails", "device": "a desk", "commit": "0", "figures": {"is_quick": 1.0}})

    assert measured.bars_table(f"```json\n{quick}\n```") == measured.NONE_YET
    assert measured.ramp_table("") == measured.false_alarm_table("") == measured.NONE_YET
