"""The picture in docs/model.md is the one that its module draws."""

import xml.etree.ElementTree as ElementTree

from docs.network_picture import HEIGHT, IMAGE, WIDTH, picture


def test_the_committed_picture_is_what_the_module_draws() -> None:
    assert IMAGE.read_text() == picture()


def test_no_box_and_no_line_of_text_begins_outside_the_picture() -> None:
    root = ElementTree.fromstring(picture())
    places = [each.attrib for each in root.iter() if "x" in each.attrib]

    assert len(places) > 60
    assert all(0 <= float(each["x"]) <= WIDTH and 0 <= float(each["y"]) <= HEIGHT for each in places)
