"""What the readers share: XML that takes too much is refused in one line, and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwood.data.formats import reading
from boxwood.data.formats.reading import is_true, read_xml, xml_root_tag
from boxwood.errors import UserError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<a>" * 20_000, "is not XML"),
        (b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>', "defines entities"),
        (b"<a " + b" ".join(b'b%d=""' % number for number in range(200)) + b"/>", "a tag has a hundred attributes or more"),
        (b'<?xml version="1.0" encoding="gb2312"?><a/>', "save it as UTF-8"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "is not XML|save it as UTF-8"),
        ("<a/>".encode("utf-16"), "is UTF-16"),
        (b"<a>\xff</a>", "is not XML"),
        (b"", "is not XML"),
    ],
)
def test_xml_that_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_xml(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value) and len(str(error.value)) < 300


def test_deep_xml_is_read(tmp_path: Path) -> None:
    depth = 100_000
    (tmp_path / "a.xml").write_bytes(b"<a>" * depth + b"</a>" * depth)
    assert sum(1 for _ in read_xml(tmp_path / "a.xml").iter()) == depth


def test_large_xml_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_MARKS", 100)
    (tmp_path / "a.xml").write_text("<a>" + "<b/>" * 97 + "</a>")
    assert len(read_xml(tmp_path / "a.xml")) == 97
    (tmp_path / "a.xml").write_text("<a>" + "<b/>" * 99 + "</a>")
    with pytest.raises(UserError, match="has 101 tags and attributes, more than the 100 that are read"):
        read_xml(tmp_path / "a.xml")


def test_the_root_of_xml(tmp_path: Path) -> None:
    for text, tag in (("<?xml version='1.0'?><!-- b --><a><b>", "a"), ("no", ""), ("", "")):
        (tmp_path / "a.xml").write_text(text)
        assert xml_root_tag(tmp_path / "a.xml") == tag
    assert xml_root_tag(tmp_path / "missing.xml") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), (" TRUE ", True), ("2.0", True), ("0", False), (None, False), ("no", False), ("maybe", None)],
)
def test_texts_that_say_yes(text: str | None, expected: bool | None) -> None:
    assert is_true(text) is expected
