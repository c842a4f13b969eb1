"""data=FOLDER: the layouts of tools are recognised, opened and trained on; what is not sure is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import boxwood as package
from boxwood.config import ConfigError
from boxwood.data import CocoConfig
from boxwood.data.layouts import data_sources, is_data_source
from boxwood.errors import UserError
from boxwood.recipes import override, resolve
from tests.conftest import Boxwood, repeatable, tiny

RECIPE = "faster_rcnn_mobilenetv2_fpn"
ROBOFLOWS_YAML = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['nut', 'bolt']\n"


def picture(path: Path, number: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (number * 11 % 256, 99, 7)).save(path)
    return path.name


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def coco(path: Path, names: list[str]) -> None:
    """A COCO file with a nut and a bolt in each image."""
    images = [{"id": number, "file_name": name, "height": 10, "width": 20} for number, name in enumerate(names, start=1)]
    boxes = [
        {"id": 2 * number + label, "image_id": number, "category_id": label, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
        for number in range(1, len(names) + 1)
        for label in (1, 2)
    ]
    categories = [{"id": 1, "name": "nut"}, {"id": 2, "name": "bolt"}]
    text(path, json.dumps({"images": images, "annotations": boxes, "categories": categories}))


def xml(path: Path, name: str) -> None:
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    objects = "".join(f"<object><name>{label}</name>{box}</object>" for label in ("nut", "bolt"))
    size = "<size><width>20</width><height>10</height></size>"
    text(path, f"<annotation><filename>{name}</filename>{size}{objects}</annotation>")


def labelme(path: Path, name: str) -> None:
    shapes = [{"label": label, "shape_type": "rectangle", "points": [[1, 2], [9, 8]]} for label in ("nut", "bolt")]
    text(path, json.dumps({"imagePath": name, "imageHeight": 10, "imageWidth": 20, "shapes": shapes}))


def yolo_part(images: Path, labels: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        picture(images / name, number)
        text(labels / Path(name).with_suffix(".txt"), "0 0.5 0.5 0.2 0.2\n1 0.4 0.4 0.2 0.2\n")


def roboflow_coco(folder: Path) -> None:
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        coco(folder / part / "_annotations.coco.json", [picture(folder / part / f"{part}{n}.jpg", n) for n in range(count)])


def roboflow_yolo(folder: Path) -> None:
    for part, count in (("train", 3), ("valid", 2)):
        yolo_part(folder / part / "images", folder / part / "labels", [f"{part}{n}.jpg" for n in range(count)])
    text(folder / "data.yaml", ROBOFLOWS_YAML)


def roboflow_voc(folder: Path) -> None:
    for part, count in (("train", 3), ("valid", 2)):
        for number in range(count):
            xml(folder / part / f"{part}{number}.xml", picture(folder / part / f"{part}{number}.jpg", number))


def roboflow_csv(folder: Path) -> None:
    for part, count in (("train", 3), ("valid", 2)):
        rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for number in range(count):
            name = picture(folder / part / f"{part}{number}.jpg", number)
            rows += [f"{name},20,10,nut,1,2,9,8", f"{name},20,10,bolt,1,2,9,8"]
        text(folder / part / "_annotations.csv", "\n".join(rows) + "\n")


def yolo(folder: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        yolo_part(folder / "images" / part, folder / "labels" / part, [f"{part}{n}.jpg" for n in range(count)])
    text(folder / "my.yaml", "path: .\ntrain: images/train\nval: images/val\nnames: {0: nut, 1: bolt}\n")


def voc(folder: Path) -> None:
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        stems = [f"{part}{number}" for number in range(count)]
        for number, stem in enumerate(stems):
            xml(folder / "Annotations" / f"{stem}.xml", picture(folder / "JPEGImages" / f"{stem}.jpg", number))
        text(folder / "ImageSets" / "Main" / f"{part}.txt", "\n".join(stems) + "\n")


def voc_parts(folder: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for number in range(count):
            xml(folder / part / "Annotations" / f"{number}.xml", picture(folder / part / "JPEGImages" / f"{number}.jpg", number))


def vocdevkit(folder: Path) -> None:
    voc(folder / "VOCdevkit" / "VOC2007")


def coco2017(folder: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        names = [picture(folder / f"{part}2017" / f"{n:012}.jpg", n) for n in range(count)]
        for kind in ("instances", "person_keypoints", "captions"):
            coco(folder / "annotations" / f"{kind}_{part}2017.json", names)


def coco_shared_photos(folder: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        coco(folder / f"{part}.json", [picture(folder / "photos" / f"{part}{n}.jpg", n) for n in range(count)])


def generated(folder: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        coco(folder / f"{part}.json", [picture(folder / part / f"{n}.jpg", n) for n in range(count)])


def labelme_parts(folder: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for number in range(count):
            labelme(folder / part / f"{number}.json", picture(folder / part / f"{number}.jpg", number))


LAYOUTS: tuple[Callable[[Path], None], ...] = (
    *(roboflow_coco, roboflow_yolo, roboflow_voc, roboflow_csv, yolo, voc, voc_parts, vocdevkit),
    *(coco2017, coco_shared_photos, generated, labelme_parts),
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_layouts_with_a_val_set(layout: Callable[[Path], None], tmp_path: Path, boxwood: Boxwood) -> None:
    """Three images to train on and two to evaluate on, each with both classes."""
    layout(tmp_path / "my data")
    config = package.recipe(RECIPE, f"data={tmp_path / 'my data'}")
    before = resolve(RECIPE)
    for part, original, count in ((config.data.train, before.data.train, 3), (config.data.val, before.data.val, 2)):
        assert isinstance(part, CocoConfig) and part.transforms == original.transforms and part.holdout is None
        dataset = part.open()
        assert len(dataset) == count and sorted(dataset.categories.names) == ["bolt", "nut"]
        assert all(sorted(dataset[index].labels.tolist()) == [0, 1] for index in range(count))
    checked = boxwood("data", "check", tmp_path / "my data")
    assert checked.status == 0 and "3 images" in checked.out and "2 images" in checked.out, checked.out + checked.err
    assert "is there too" not in checked.err


def one_coco(folder: Path) -> None:
    coco(folder / "labels.json", [picture(folder / "images" / f"{n}.jpg", n) for n in range(10)])


def label_studio(folder: Path) -> None:
    value = {"x": 10, "y": 20, "width": 30, "height": 40}
    tasks = []
    for number in range(10):
        picture(folder / f"{number}.jpg", number)
        regions = [
            {"type": "rectanglelabels", "original_width": 20, "original_height": 10, "value": {**value, "rectanglelabels": [label]}}
            for label in ("nut", "bolt")
        ]
        task = {"id": number, "data": {"image": f"/data/upload/1/0a1b2c3d-{number}.jpg"}, "annotations": [{"result": regions}]}
        tasks.append(task)
    text(folder / "project.json", json.dumps(tasks))


def cvat(folder: Path) -> None:
    boxes = "".join(f'<box label="{label}" xtl="1" ytl="2" xbr="9" ybr="8" occluded="0"/>' for label in ("nut", "bolt"))
    images = [
        f'<image id="{n}" name="{picture(folder / "images" / f"{n}.jpg", n)}" width="20" height="10">{boxes}</image>'
        for n in range(10)
    ]
    text(folder / "annotations.xml", f"<annotations>{''.join(images)}</annotations>")


def labelimg(folder: Path) -> None:
    for number in range(10):
        xml(folder / f"{number}.xml", picture(folder / f"{number}.jpg", number))


def one_labelme(folder: Path) -> None:
    for number in range(10):
        labelme(folder / f"{number}.json", picture(folder / f"{number}.jpg", number))


def roboflow_train_alone(folder: Path) -> None:
    """Roboflow's data.yaml names valid and test, whether they are there or not."""
    yolo_part(folder / "train" / "images", folder / "train" / "labels", [f"{n}.jpg" for n in range(10)])
    text(folder / "data.yaml", ROBOFLOWS_YAML)


ONE_SET = (one_coco, label_studio, cvat, labelimg, one_labelme, roboflow_train_alone)


@pytest.mark.parametrize("layout", ONE_SET, ids=lambda layout: layout.__name__)
def test_one_set_is_divided(layout: Callable[[Path], None], tmp_path: Path, boxwood: Boxwood) -> None:
    layout(tmp_path)
    config = resolve(RECIPE, [f"data={tmp_path}"])
    train, val = config.data.train.open(), config.data.val.open()
    names = [{dataset[index].file_name for index in range(len(dataset))} for dataset in (train, val)]
    assert (len(train), len(val)) == (8, 2) and not names[0] & names[1]
    assert train.categories == val.categories and sorted(train.categories.names) == ["bolt", "nut"]
    checked = boxwood("data", "check", tmp_path)
    assert checked.status == 0 and "10 images, 20 annotations, 2 classes" in checked.out, checked.out + checked.err
    counted = boxwood("data", "stats", tmp_path)
    assert counted.status == 0 and "10 images, 20 annotations, 2 classes" in counted.out
    divided = boxwood("data", "split", tmp_path, "--out", tmp_path / "parts")
    assert divided.status == 0 and "images" in divided.out, divided.err
    parts = [json.loads((tmp_path / "parts" / f"{name}.json").read_text()) for name in ("train", "val")]
    assert [len(part["images"]) for part in parts] == [8, 2] and [len(part["annotations"]) for part in parts] == [16, 4]
    fixed = boxwood("data", "check", tmp_path, "--fix", tmp_path / "fixed" / "fixed.json")
    assert fixed.status == 0 and len(json.loads((tmp_path / "fixed" / "fixed.json").read_text())["annotations"]) == 20


TOKENS = (
    *(b"", b"\0", b"null", b"-1", b"1e999", b"nan", b"[", b"{", b"<"),
    *(b'"', b": ", b"\n", b"../", b"\xff\xfe", b"\\ud800", b'"images"'),
)


@repeatable
@settings(max_examples=60)
@given(
    layout=st.sampled_from((*LAYOUTS, *ONE_SET)),
    which=st.integers(0, 100),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.sampled_from(TOKENS)), min_size=1, max_size=3),
)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    layout: Callable[[Path], None],
    which: int,
    cuts: list[tuple[float, int, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged" / layout.__name__
    if not folder.is_dir():
        layout(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jpg")
    path = files[which % len(files)]
    before = content = path.read_bytes()
    for place, length, token in cuts:
        start = int(place * len(content))
        content = content[:start] + token + content[start + length :]
    path.write_bytes(content)
    try:
        config = resolve(RECIPE, [f"data={folder}"])
        for part in (config.data.train, config.data.val):
            assert isinstance(part, CocoConfig) and len(part.read().image_ids)
        package.check(folder)
    except UserError as error:
        message = str(error)
    else:
        message = ""
    finally:
        path.write_bytes(before)
    assert "\n" not in message


def test_what_was_taken_is_logged(tmp_path: Path, boxwood: Boxwood) -> None:
    roboflow_coco(tmp_path / "photos")
    shown = boxwood("config", "show", RECIPE, f"data={tmp_path / 'photos'}")
    train, test = (tmp_path / "photos" / part / "_annotations.coco.json" for part in ("train", "test"))
    assert f"train is {train}, with the pictures in {train.parent}" in shown.err
    assert f"boxwood eval RUN data.val.annotations={test} data.val.images={test.parent}" in shown.err
    one_coco(tmp_path / "one")
    shown = boxwood("config", "show", RECIPE, f"data={tmp_path / 'one'}")
    assert "there is no val set, so 20 % of the images become one" in shown.err


def test_a_folder_is_resolved_without_torch(tmp_path: Path) -> None:
    roboflow_yolo(tmp_path)
    code = (
        "import sys, boxwood\n"
        f"boxwood.recipe({RECIPE!r}, {f'data={tmp_path}'!r})\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_readings_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    roboflow_yolo(tmp_path)
    voc(tmp_path)
    assert data_sources(tmp_path)["train"].annotations == tmp_path / "data.yaml"
    assert f"{tmp_path / 'data.yaml'} is read; {tmp_path} is there too" in caplog.text
    caplog.clear()
    coco2017(tmp_path / "coco")
    assert data_sources(tmp_path / "coco")["val"].annotations.name == "instances_val2017.json"
    assert "person_keypoints_val2017.json may be meant too: set data.val.annotations" in caplog.text
    assert "captions" not in caplog.text


def test_folders_that_are_not_read(tmp_path: Path) -> None:
    yolo_part(tmp_path / "yolo" / "images", tmp_path / "yolo" / "labels", ["a.jpg"])
    with pytest.raises(UserError, match=r"has YOLO's labels and no data.yaml, which names the classes; write .*data.yaml"):
        resolve(RECIPE, [f"data={tmp_path / 'yolo'}"])
    for name in ("a.json", "b.json"):
        coco(tmp_path / "two" / name, [picture(tmp_path / "two" / "1.jpg")])
    with pytest.raises(UserError, match=r"has a.json, b.json; name one, such as"):
        resolve(RECIPE, [f"data={tmp_path / 'two'}"])
    picture(tmp_path / "pictures" / "a.jpg")
    with pytest.raises(UserError, match="holds no annotations that are known"):
        resolve(RECIPE, [f"data={tmp_path / 'pictures'}"])
    with pytest.raises(UserError, match="is not there; name a folder of labelled images"):
        resolve(RECIPE, [f"data={tmp_path / 'nothing'}"])
    coco(tmp_path / "elsewhere" / "train.json", ["a.jpg"])
    with pytest.raises(UserError, match=r"no folder beside it has its pictures; in place of data=... set data.train.annotations"):
        resolve(RECIPE, [f"data={tmp_path / 'elsewhere'}"])
    for year in (2007, 2012):
        voc(tmp_path / "devkit" / f"VOC{year}")
    with pytest.raises(UserError, match=r"name one, data=.*VOC2012"):
        resolve(RECIPE, [f"data={tmp_path / 'devkit'}"])


def test_cityscapes(tmp_path: Path, boxwood: Boxwood) -> None:
    car = {"label": "car", "polygon": [[1, 1], [8, 1], [8, 6]]}
    for part in ("train", "val"):
        picture(tmp_path / "leftImg8bit" / part / "ulm" / "ulm_0_1_leftImg8bit.png")
        content = {"imgHeight": 10, "imgWidth": 20, "objects": [car]}
        text(tmp_path / "gtFine" / part / "ulm" / "ulm_0_1_gtFine_polygons.json", json.dumps(content))
    config = resolve(RECIPE, [f"data={tmp_path}"])
    assert [len(part.open()) for part in (config.data.train, config.data.val)] == [1, 1]
    assert boxwood("data", "check", tmp_path / "gtFine" / "val").status == 0


def test_the_same_images_in_train_and_val_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yolo_part(tmp_path / "images", tmp_path / "labels", ["a.jpg"])
    text(tmp_path / "data.yaml", "train: images\nval: images\nnames: [nut, bolt]\n")
    assert list(data_sources(tmp_path)) == ["train", "val"]
    assert "'train' and 'val' name the same images" in caplog.text


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(permission denied\); allow it"):
        data_sources(tmp_path)


def test_data_goes_before_other_overrides_and_keeps_settings(tmp_path: Path) -> None:
    generated(tmp_path)
    config = resolve(RECIPE, ["data.val.images=elsewhere", "data.train.exif=false"])
    config = override(config, ["data.val.images=photos", f"data={tmp_path}", "optim.lr=0.5"])
    assert isinstance(config.data.train, CocoConfig) and isinstance(config.data.val, CocoConfig)
    assert config.data.val.images == "photos" and not config.data.train.exif and config.optim.lr == 0.5
    assert config.data.train.annotations == str(tmp_path / "train.json")


def test_other_annotations_are_read_whole(tmp_path: Path) -> None:
    """A run that divided one set is evaluated on all images of another."""
    one_coco(tmp_path / "one")
    coco(tmp_path / "test.json", ["a.jpg"])
    config = override(resolve(RECIPE, [f"data={tmp_path / 'one'}"]), [f"data.val.annotations={tmp_path / 'test.json'}"])
    assert isinstance(config.data.train, CocoConfig) and isinstance(config.data.val, CocoConfig)
    assert config.data.val.holdout is None and config.data.train.holdout == ("train", 0.2)
    with pytest.raises(ConfigError, match=r"'data.train.holdout.1' should be less than 1"):
        resolve(RECIPE, ["data.train.holdout=[train, 20]"])


def test_data_in_a_yaml_file(tmp_path: Path) -> None:
    generated(tmp_path / "photos")
    text(tmp_path / "mine.yaml", f"base: {RECIPE}\ndata: {tmp_path / 'photos'}\noptim: {{lr: 0.5}}\n")
    config = resolve(str(tmp_path / "mine.yaml"))
    assert config.optim.lr == 0.5 and len(config.data.val.open()) == 2
    text(tmp_path / "alone.yaml", f"data: {tmp_path / 'photos'}\n")
    with pytest.raises(UserError, match=r"alone.yaml:1: data: .* needs a base"):
        resolve(str(tmp_path / "alone.yaml"))


def test_data_and_configurations_are_distinguished(tmp_path: Path) -> None:
    """And a command that needs a configuration says how data are named."""
    roboflow_yolo(tmp_path / "yolo")
    text(tmp_path / "run.yaml", f"base: {RECIPE}\ntrain: {{steps: 3}}\n")
    text(tmp_path / "run" / "config.yaml", f"base: {RECIPE}\n")
    one_coco(tmp_path / "one")
    data = [tmp_path / "yolo", tmp_path / "yolo" / "data.yaml", tmp_path / "one", tmp_path / "one" / "labels.json"]
    assert all(map(is_data_source, data))
    assert not any(map(is_data_source, (tmp_path / "run.yaml", tmp_path / "run", RECIPE, "my_work:mine", tmp_path / "no.yaml")))
    for path in data:
        with pytest.raises(UserError, match=f"recipe.*{RECIPE} data={path}"):
            resolve(str(path))


def test_fix_and_split_need_one_set(tmp_path: Path, boxwood: Boxwood) -> None:
    roboflow_yolo(tmp_path / "yolo")
    fixed = boxwood("data", "check", tmp_path / "yolo" / "data.yaml", "--fix", tmp_path / "fixed.json")
    assert fixed.status == 2 and not (tmp_path / "fixed.json").exists()
    assert f"boxwood data convert {tmp_path / 'yolo' / 'data.yaml'} train.json --split train" in fixed.error_lines[0]
    roboflow_coco(tmp_path / "coco")
    divided = boxwood("data", "split", tmp_path / "coco", "--out", tmp_path / "parts")
    first = tmp_path / "coco" / "train" / "_annotations.coco.json"
    assert divided.status == 2 and f"has the sets train, val, test; name one, such as {first}" in divided.error_lines[0]


def test_images_of_train_in_val_are_named(tmp_path: Path, boxwood: Boxwood) -> None:
    generated(tmp_path)
    (tmp_path / "val" / "0.jpg").write_bytes((tmp_path / "train" / "2.jpg").read_bytes())
    checked = boxwood("data", "check", tmp_path)
    assert "train and val" in checked.out and "look" in checked.out


@pytest.mark.slow
def test_a_folder_is_trained_evaluated_and_predicted(tmp_path: Path, boxwood: Boxwood) -> None:
    """The first minutes of a user: check, train, eval, predict; and the run's configuration trains again."""
    one_coco(tmp_path / "photos")
    small = [text for text in tiny(tmp_path) if not text.startswith(("data.train.annotations", "data.train.images", "data.val.a"))]
    small = [text for text in small if not text.startswith(("data.val.images", "model.mask_head"))]
    run = tmp_path / "run"
    assert boxwood("data", "check", tmp_path / "photos").status == 0
    trained = boxwood("train", RECIPE, f"data={tmp_path / 'photos'}", *small, "model.backbone.weights=null", "--out", run)
    assert trained.status == 0, trained.err
    assert "holdout: [val, 0.2]" in (run / "config.yaml").read_text()
    measured = boxwood("eval", run)
    assert measured.status == 0 and "2 images" in measured.out, measured.err
    again = boxwood("train", run, "--out", tmp_path / "again")
    assert again.status == 0, again.err
    weights, others = (load_file(folder / "last.safetensors") for folder in (run, tmp_path / "again"))
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    assert boxwood("predict", tmp_path / "photos" / "images", "--model", run, "--out", tmp_path / "seen").status == 0
