"""Downloaded files are complete and verified or absent, and interrupted downloads are resumed."""

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
from boxwood.zoo.table import DENSEPOSE, PREFIX, find
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


def error_message(url: str = URL) -> str:
    with pytest.raises(UserError) as error:
        fetch(url)
    assert "\n" not in str(error.value)
    assert not local_path(url).exists()
    return str(error.value)


def test_a_file_is_downloaded_once(site: Site) -> None:
    path = fetch(URL)
    assert path == cache_folder() / "detectron" / NAME and path.read_bytes() == CONTENT
    assert fetch(URL) == path and len(site.requests) == 2
    assert sorted(file.name for file in path.parent.iterdir()) == [
        ".model_final.pkl.lock",
        ".model_final.pkl.size",
        "model_final.pkl",
    ]


def test_a_cached_file_needs_no_network(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(URL)
    monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", "http://127.0.0.1:9")
    assert fetch(URL) == path


def test_a_dropped_connection_is_resumed(site: Site) -> None:
    site.drop_after = [100_000, 50_000]
    assert fetch(URL).read_bytes() == CONTENT
    assert [wanted for _, wanted in site.downloads()] == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_call_resumes(site: Site) -> None:
    site.drop_after = [1000] * download.TRIES
    assert "cannot be downloaded (the connection ended after 4000 of 512000 bytes)" in error_message()
    site.drop_after = []
    assert fetch(URL).read_bytes() == CONTENT
    assert site.downloads()[-1][1] == "bytes=4000-"


def test_a_server_that_trickles_is_given_up_and_what_came_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's timeout never comes, since bytes do."""
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.3)
    site.trickle = {"body": 0.02}
    message = error_message()
    assert "is given up, since the server sent" in message and "bytes are kept" in message and "BOXWOOD_ZOO_MIRROR" in message
    kept = local_path(URL).with_name(".model_final.pkl.part").read_bytes()
    assert 0 < len(kept) < 100 and kept == CONTENT[: len(kept)] and len(site.downloads()) == 1
    site.trickle = {}
    assert fetch(URL).read_bytes() == CONTENT
    assert site.downloads()[-1][1] == f"bytes={len(kept)}-"


@pytest.mark.parametrize(("part", "requests"), [("head", download.TRIES), ("sum", 1)])
def test_heads_and_sums_that_trickle_are_broken_connections(
    site: Site, part: str, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.2)
    site.trickle = {part: 0.005 if part == "head" else 0.05}
    message = error_message()
    assert "cannot be downloaded" in message and "kept" in message and len(site.downloads()) == requests
    site.trickle = {}
    assert fetch(URL).read_bytes() == CONTENT


def test_a_changed_file_is_downloaded_from_its_start(site: Site) -> None:
    site.drop_after = [1000] * download.TRIES
    error_message()
    site.drop_after, site.etag = [], '"two"'
    other = CONTENT[::-1]
    site.put(f"/{NAME}", other)
    assert fetch(URL).read_bytes() == other


def test_without_ranges_a_file_is_downloaded_from_its_start(site: Site) -> None:
    site.drop_after, site.ranges = [100_000], False
    assert fetch(URL).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_replaced(site: Site) -> None:
    part = local_path(URL).with_name(".model_final.pkl.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT * 2)
    part.with_suffix(".tag").write_text(site.etag)
    assert fetch(URL).read_bytes() == CONTENT


def test_a_file_with_a_wrong_sum_is_deleted(site: Site) -> None:
    site.put(f"/{NAME}", CONTENT, md5="0" * 32)
    message = error_message()
    assert hashlib.md5(CONTENT, usedforsecurity=False).hexdigest() in message and "was deleted" in message
    assert not list(local_path(URL).parent.glob("*.part"))
    site.put(f"/{NAME}", CONTENT)
    assert fetch(URL).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [None, b"<html>no</html>"])
def test_a_file_without_a_sum_is_refused(site: Site, content: bytes | None) -> None:
    site.files.pop(f"/{NAME}.md5sum")
    if content is not None:
        site.files[f"/{NAME}.md5sum"] = content
    assert "verified" in error_message() and "mirror" in error_message()


def test_a_complete_file_is_kept_until_its_sum_is_there(site: Site) -> None:
    """It is not downloaded again if only the sum was missing."""
    sums = site.files.pop(f"/{NAME}.md5sum")
    error_message()
    site.files[f"/{NAME}.md5sum"] = sums
    assert fetch(URL).read_bytes() == CONTENT
    assert [wanted for _, wanted in site.downloads()] == [None, f"bytes={len(CONTENT)}-"]


def test_a_truncated_cached_file_is_downloaded_again(site: Site) -> None:
    path = fetch(URL)
    path.write_bytes(CONTENT[:1000])
    assert fetch(URL).read_bytes() == CONTENT and len(site.downloads()) == 2


def test_a_missing_file_is_not_retried(site: Site) -> None:
    assert "answers 404" in error_message(PREFIX + "nothing.pkl")
    assert len(site.requests) == 1  # no retries


def test_offline(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", "http://127.0.0.1:9")
    message = error_message()
    assert "cannot be downloaded" in message and "BOXWOOD_ZOO_MIRROR" in message


def test_a_redirect_to_a_file_is_not_followed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    site.redirects[f"/{NAME}"] = f"file://{tmp_path}/secret"
    assert "not allowed" in error_message()
    site.redirects[f"/{NAME}"] = f"{site.address}/elsewhere"
    site.files["/elsewhere"] = CONTENT
    assert fetch(URL).read_bytes() == CONTENT


@pytest.mark.parametrize("mirror", ["file:///etc", "ftp://example.org"])
def test_a_mirror_is_a_web_address(site: Site, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", mirror)
    assert "must begin with http" in error_message()


def test_a_cache_that_cannot_be_written(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    assert "BOXWOOD_CACHE" in error_message()
    (tmp_path / "cache").unlink()

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_copy", full)
        assert "No space left" in error_message()
    assert fetch(URL).read_bytes() == CONTENT


def test_a_file_over_the_size_limit_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)
    assert "more than any published file" in error_message()


def test_concurrent_calls_download_once(site: Site) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(URL))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4 and paths[0].read_bytes() == CONTENT and len(site.downloads()) == 1


def test_torchvisions_files_are_in_the_cache_of_torch(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    entry = find("torchvision/maskrcnn_resnet50_fpn")
    assert entry.url is not None
    path = local_path(entry.url)
    assert path == Path(torch.hub.get_dir(), "checkpoints", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    site.files["/torchvision/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"] = CONTENT
    assert "SHA-256" in error_message(entry.url)
    named = replace(entry, path=entry.url.replace("bf2d0c1e", hashlib.sha256(CONTENT).hexdigest()[:8]))
    assert named.url is not None
    site.files[f"/torchvision/{local_path(named.url).name}"] = CONTENT
    assert local_file(named).read_bytes() == CONTENT
    local_path(named.url).write_bytes(b"damaged")
    with pytest.raises(UserError, match="delete it"):
        local_file(named)


def test_unpublished_weights_are_refused() -> None:
    with pytest.raises(UserError, match="not published"):
        local_file(find("detectron/scratch_e2e_mask_rcnn_R-50-FPN_3x_gn"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.integers(0, 600_000), max_size=download.TRIES + 2), st.booleans(), st.binary(min_size=1, max_size=5000))
def test_the_file_is_complete_after_any_failures(site: Site, cuts: list[int], ranges: bool, noise: bytes) -> None:
    """Cut connections, with and without ranges, after the rest of an earlier try: in the end the whole file, before an error."""
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
            message = str(error)
        assert "cannot be downloaded" in message and not local_path(URL).exists()
    raise AssertionError("no connection was cut any more, and the download failed")


def test_a_model_of_dense_pose_is_verified_by_the_letters_in_its_name(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The names of detectron2's files end with six letters of the MD5 sum; the older program's files have nothing."""
    letters = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()[:6]
    other = "000000" if letters != "000000" else "111111"
    for name in (f"config/1/model_final_{letters}.pkl", f"config/1/model_final_{other}.pkl", "DensePose_ResNet50_FPN_s1x-e2e.pkl"):
        site.put(f"/densepose/{name}", CONTENT)
    right = fetch(f"{DENSEPOSE}config/1/model_final_{letters}.pkl")
    assert right == cache_folder() / "densepose" / "config" / "1" / f"model_final_{letters}.pkl" and right.read_bytes() == CONTENT
    assert f"which should begin with {other}, so it was deleted" in error_message(f"{DENSEPOSE}config/1/model_final_{other}.pkl")
    assert fetch(f"{DENSEPOSE}DensePose_ResNet50_FPN_s1x-e2e.pkl").read_bytes() == CONTENT
    assert "DensePose_ResNet50_FPN_s1x-e2e.pkl: its makers published no check sum, so it is not verified" in caplog.text
