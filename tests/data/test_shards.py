"""Pictures in tar files: the same pixels, batches and weights as from a folder; damaged and hostile tar files."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
import torch

from boxwood.data import CocoConfig
from boxwood.data.coco import CocoDataset
from boxwood.data.loader import train_batches
from boxwood.data.shards import Shards, are_shards, open_pictures
from boxwood.errors import UserError
from boxwood.library.check import check
from tests.conftest import Boxwood, tiny
from tests.data.cases import sound, write


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file with these members."""
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def in_tars(tmp_path: Path) -> Path:
    """A COCO file, its pictures in ``photos/``, and the same in ``tars/a-0.tar`` and ``a-1.tar``."""
    path = write(tmp_path / "photos", sound())
    (tmp_path / "tars").mkdir()
    names = [row["file_name"] for row in sound()["images"]]
    contents = {f"./{name}" if name == "tall.png" else name: (tmp_path / "photos" / name).read_bytes() for name in names}
    tar_of(tmp_path / "tars" / "a-0.tar", dict(list(contents.items())[:1]))
    tar_of(tmp_path / "tars" / "a-1.tar", dict(list(contents.items())[1:]))
    return path.rename(tmp_path / "data.json")


def test_samples_are_those_of_the_folder(in_tars: Path) -> None:
    """Also in a copy of the data set in another process, and in batches of two workers."""
    place = in_tars.parent
    folder = CocoDataset(in_tars, place / "photos")
    for images in (place / "tars", place / "tars" / "a-{0..1}.tar"):
        dataset = CocoConfig(annotations=str(in_tars), images=str(images)).open()
        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  (written here)
        for index in range(3):
            for other in (dataset[index], copy[index]):
                assert torch.equal(other.image, folder[index].image) and other.file_name == folder[index].file_name
                assert torch.equal(other.boxes, folder[index].boxes)
    batches = [train_batches(data, [], batch_size=2, seed=0, workers=2) for data in (folder, dataset)]
    for _ in range(3):
        one, other = (next(part) for part in batches)
        assert torch.equal(one.images, other.images) and one.image_ids == other.image_ids
    for part in batches:
        part.close()


def test_check_reads_tar_files(in_tars: Path) -> None:
    tars = in_tars.parent / "tars"
    folder = check(in_tars, images=in_tars.parent / "photos", decode=True)
    assert check(in_tars, images=tars, decode=True) == folder
    content = bytearray((tars / "a-1.tar").read_bytes())
    shards = open_pictures(tars)
    assert isinstance(shards, Shards)
    member = shards.member("tall.png")
    assert member is not None
    start = int(shards.offsets[member])
    content[start : start + 8] = bytes(8)
    (tars / "a-1.tar").write_bytes(content)
    (finding,) = [one for one in check(in_tars, images=tars, decode=True) if one not in folder]
    assert finding.refused and f"{tars / 'a-1.tar'}: tall.png: " in finding.examples[0]


def test_names_in_another_notation_are_members(in_tars: Path) -> None:
    """As in a folder (`tests.data.test_file_names`); what no tar file has is named."""
    coco = json.loads(in_tars.read_text())
    coco["images"][0]["file_name"] = r"C:\photos\wide.png"
    in_tars.write_text(json.dumps(coco))
    dataset = CocoDataset(in_tars, in_tars.parent / "tars")
    assert dataset.file_name(0) == "wide.png" and dataset[0].image.shape == (3, 40, 60)
    coco["images"][0]["file_name"] = "other.png"
    in_tars.write_text(json.dumps(coco))
    with pytest.raises(UserError, match=r"1 of 3 images of .*data.json are not in .*tars: 'other.png'"):
        CocoDataset(in_tars, in_tars.parent / "tars")


def test_links_are_counted_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("pipe.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("../../up.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    shards = open_pictures(path)
    assert isinstance(shards, Shards)
    assert dict(shards.ignored) == {"links in tar files": 2, "special files in tar files": 1}
    assert shards.member("link.png") is None and shards.source("../../up.png").content == b"abc"
    with pytest.raises(UserError, match=r"no member 'link.png'"):
        shards.source("link.png")


def damaged(path: Path, how: str) -> Path:
    content = bytearray(tar_of(path, {"a.png": bytes(range(256)) * 40, "b.png": b"b"}).read_bytes())
    if how == "cut":
        content = content[:6000]
    elif how == "compressed":
        import gzip

        content = bytearray(gzip.compress(bytes(content)))
    elif how == "header":
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, 2**40
        content = bytearray(header.tobuf(tarfile.USTAR_FORMAT if header.size < 8**11 else tarfile.GNU_FORMAT)) + content
    elif how == "noise":
        content[:512] = bytes([7]) * 512
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "cannot be read as a tar file (unexpected end of data)"),
        ("compressed", "cannot be read as a tar file"),
        ("header", "cannot be read as a tar file (a header of 1,099,511,62"),
        ("noise", "cannot be read as a tar file"),
    ],
)
def test_a_damaged_tar_file_is_one_line(how: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_pictures(damaged(tmp_path / "a.tar", how))
    assert message in str(caught.value) and str(tmp_path / "a.tar") in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_sets_of_tar_files_are_named(tmp_path: Path) -> None:
    tar_of(tmp_path / "a-0.tar", {"a.png": b"1"})
    tar_of(tmp_path / "a-1.tar", {"./a.png": b"2"})
    with pytest.raises(UserError, match=r"a-0.tar and .*a-1.tar: both have a member 'a.png'"):
        open_pictures(tmp_path)
    with pytest.raises(UserError, match=r"a-2.tar: the tar file cannot be read \(no such file"):
        open_pictures(tmp_path / "a-{0..2}.tar")
    with pytest.raises(UserError, match="must go from a number to one that is not smaller"):
        open_pictures(tmp_path / "a-{2..0}.tar")
    assert not are_shards(tmp_path / "a-0.png")
    shards = open_pictures(tmp_path / "a-0.tar")
    assert isinstance(shards, Shards)
    with pytest.raises(UserError, match=r"a-0.tar: a.png: has 1 bytes, over the 0"):
        shards.content(0, limit=0)
    (tmp_path / "a-0.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"a-0.tar: a.png: the tar file was cut off"):
        shards.source("a.png")


@pytest.mark.slow
def test_training_on_tar_files_gives_the_weights_of_the_folder(shapes: Path, tmp_path: Path, boxwood: Boxwood) -> None:
    """`boxwood data convert` to WebDataset's layout, then training on pictures and annotations of the tar files."""
    for part in ("train", "val"):
        done = boxwood("data", "convert", shapes / f"{part}.json", tmp_path / part, "--to", "webdataset", "--images", shapes / part)
        assert done.status == 0, done.err
    tars = [f"data.{part}.{key}={tmp_path / part}" for part in ("train", "val") for key in ("annotations", "images")]
    weights = []
    for name, overrides in (("folder", []), ("tars", tars)):
        done = boxwood(
            "train", "demo_shapes", *tiny(shapes), *overrides, "train.steps=2", "data.workers=2", "--out", tmp_path / name
        )
        assert done.status == 0, done.err
        weights.append((tmp_path / name / "last.safetensors").read_bytes())
    from safetensors.torch import load

    one, other = map(load, weights)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
