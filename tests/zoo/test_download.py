"""Files come whole and verified or not at all, and what has come is not lost."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwood.errors import UserError
from boxwood.zoo import download
from boxwood.zoo.download import cache_folder, fetch, local_file, local_path
from boxwood.zoo.table import PREFIX, find
from tests.zoo.server import Site, serve

CONTENT = bytes(range(256)) * 2000
NAME = "36768636/model_final.pkl"
URL = PREFIX + NAME


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("BOXWOOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serve() as server:
        monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", server.address)
        server.put(f"/{NAME}", CONTENT)
        yield server


def complaint(url: str = URL) -> str:
    with pytest.raises(UserError) as error:
        fetch(url)
    assert "\n" not in str(error.value)
    assert not local_path(url).exists()
    return str(error.value)


def test_a_file_comes_once(site: Site) -> None:
    path = fetch(URL)
    assert path == cache_folder() / "detectron" / NAME and path.read_bytes() == CONTENT
    asked = len(site.requests)
    assert fetch(URL) == path and len(site.requests) == asked == 2
    assert sorted(file.name for file in path.parent.iterdir()) == [
        ".model_final.pkl.lock",
        ".model_final.pkl.size",
        "model_final.pkl",
    ]


def test_a_cached_file_needs_no_network(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(URL)
    monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", "http://127.0.0.1:9")
    assert fetch(URL) == path


def test_a_dropped_connection_is_gone_on_with(site: Site) -> None:
    site.drop_after = [100_000, 50_000]
    assert fetch(URL).read_bytes() == CONTENT
    assert [wanted for _, wanted in site.bodies()] == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_try_goes_on(site: Site) -> None:
    site.drop_after = [1000] * download.TRIES
    assert "cannot be had (the connection ended after 4000 of 512000 bytes)" in complaint()
    site.drop_after = []
    assert fetch(URL).read_bytes() == CONTENT
    assert site.bodies()[-1][1] == "bytes=4000-"


def test_a_file_that_changed_begins_anew(site: Site) -> None:
    site.drop_after = [1000] * download.TRIES
    complaint()
    site.drop_after, site.etag = [], '"two"'
    other = CONTENT[::-1]
    site.put(f"/{NAME}", other)
    assert fetch(URL).read_bytes() == other


def test_a_server_without_ranges_begins_anew(site: Site) -> None:
    site.drop_after, site.ranges = [100_000], False
    assert fetch(URL).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_begins_anew(site: Site) -> None:
    part = local_path(URL).with_name(".model_final.pkl.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT * 2)
    part.with_suffix(".tag").write_text(site.etag)
    assert fetch(URL).read_bytes() == CONTENT


def test_a_wrong_sum_is_thrown_away(site: Site) -> None:
    site.put(f"/{NAME}", CONTENT, md5="0" * 32)
    told = complaint()
    assert hashlib.md5(CONTENT, usedforsecurity=False).hexdigest() in told and "thrown away" in told
    assert not list(local_path(URL).parent.glob("*.part"))
    site.put(f"/{NAME}", CONTENT)
    assert fetch(URL).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [None, b"<html>no</html>"])
def test_a_file_without_a_sum_is_not_taken(site: Site, content: bytes | None) -> None:
    site.files.pop(f"/{NAME}.md5sum")
    if content is not None:
        site.files[f"/{NAME}.md5sum"] = content
    assert "verified" in complaint() and "mirror" in complaint()


def test_a_whole_file_waits_for_its_sum(site: Site) -> None:
    """What has come is not fetched again when only the sum was missing."""
    sums = site.files.pop(f"/{NAME}.md5sum")
    complaint()
    site.files[f"/{NAME}.md5sum"] = sums
    assert fetch(URL).read_bytes() == CONTENT
    assert [wanted for _, wanted in site.bodies()] == [None, f"bytes={len(CONTENT)}-"]


def test_a_cached_file_that_was_cut_is_fetched_again(site: Site) -> None:
    path = fetch(URL)
    path.write_bytes(CONTENT[:1000])
    assert fetch(URL).read_bytes() == CONTENT and len(site.bodies()) == 2


def test_what_is_not_there(site: Site) -> None:
    assert "answers 404" in complaint(PREFIX + "nothing.pkl")
    assert len(site.requests) == 1  # not asked again and again


def test_offline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", "http://127.0.0.1:9")
    told = complaint()
    assert "cannot be had" in told and "BOXWOOD_ZOO_MIRROR" in told


def test_a_redirect_to_a_file_is_not_followed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    site.redirects[f"/{NAME}"] = f"file://{tmp_path}/secret"
    assert "not allowed" in complaint()
    site.redirects[f"/{NAME}"] = f"{site.address}/elsewhere"
    site.files["/elsewhere"] = CONTENT
    assert fetch(URL).read_bytes() == CONTENT


@pytest.mark.parametrize("mirror", ["file:///etc", "ftp://example.org"])
def test_a_mirror_is_a_web_address(site: Site, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", mirror)
    assert "begins with http" in complaint()


def test_a_cache_that_cannot_be_written(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    assert "BOXWOOD_CACHE" in complaint()
    (tmp_path / "cache").unlink()

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_copy", full)
        assert "No space left" in complaint()
    assert fetch(URL).read_bytes() == CONTENT


def test_a_file_without_end_is_not_taken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    assert "more than any published file" in complaint()


def test_two_at_once_fetch_once(site: Site) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(URL))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and found[0].read_bytes() == CONTENT and len(site.bodies()) == 1


def test_torchvisions_files_lie_where_torch_looks(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    entry = find("torchvision/maskrcnn_resnet50_fpn")
    assert entry.url is not None
    path = local_path(entry.url)
    assert path == Path(torch.hub.get_dir(), "checkpoints", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    site.files["/torchvision/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"] = CONTENT
    assert "SHA-256" in complaint(entry.url)
    named = replace(entry, path=entry.url.replace("bf2d0c1e", hashlib.sha256(CONTENT).hexdigest()[:8]))
    assert named.url is not None
    site.files[f"/torchvision/{local_path(named.url).name}"] = CONTENT
    assert local_file(named).read_bytes() == CONTENT
    local_path(named.url).write_bytes(b"damaged")
    with pytest.raises(UserError, match="delete it"):
        local_file(named)


def test_what_is_not_published() -> None:
    with pytest.raises(UserError, match="not published"):
        local_file(find("detectron/scratch_e2e_mask_rcnn_R-50-FPN_3x_gn"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.integers(0, 600_000), max_size=download.TRIES + 2), st.booleans(), st.binary(min_size=1, max_size=5000))
def test_whatever_breaks_the_file_is_whole(site: Site, cuts: list[int], ranges: bool, noise: bytes) -> None:
    """Any cuts, with and without ranges, behind whatever an earlier try left: in the end all bytes, or one clear line."""
    part = local_path(URL).with_name(".model_final.pkl.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    local_path(URL).unlink(missing_ok=True)
    part.write_bytes(CONTENT[: len(noise)])
    part.with_suffix(".tag").write_text(site.etag)
    site.drop_after, site.ranges = list(cuts), ranges
    for _ in range(2 + len(cuts)):
        try:
            assert fetch(URL).read_bytes() == CONTENT
            return
        except UserError as error:
            told = str(error)
        assert "cannot be had" in told and not local_path(URL).exists()
    raise AssertionError("the cuts are over")
