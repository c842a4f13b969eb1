"""The predictor: the images that it accepts, loading, and that `prepare` changes no results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from boxwood.data import CocoConfig, DataConfig, ResizeShortestEdge
from boxwood.errors import UserError
from boxwood.inference.predictor import Predictor, load, prepare
from boxwood.models.backbones import ConvNorm, MobileNetV2Config, ResNetConfig
from boxwood.models.config import FPNConfig, RCNNConfig, RPNConfig
from boxwood.models.heads import ConvMaskHeadConfig, TwoFCHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.rcnn import RCNN
from boxwood.run_config import RunConfig
from boxwood.structures import Batch, Categories, Detections
from boxwood.weights import save_weights

CLASSES = Categories((7, 2), ("nut", "fig"))


def run_config(short: int = 96, backbone: Any = None) -> RunConfig:
    backbone = backbone or ResNetConfig(depth=18, width=32, weights=None)
    val = CocoConfig(annotations="none.json", images="none", transforms=(ResizeShortestEdge(short=(short,), long=256),))
    return RunConfig(
        model=RCNNConfig(
            backbone=backbone,
            fpn=FPNConfig(channels=32),
            rpn=RPNConfig(anchor_sizes=((16.0,), (32.0,), (48.0,), (64.0,), (96.0,)), test_proposals=50),
            box_head=TwoFCHeadConfig(width=32),
            mask_head=ConvMaskHeadConfig(convs=1, width=16),
        ),
        data=DataConfig(train=CocoConfig(annotations="none.json", images="none"), val=val),
        test=TestConfig(score_threshold=0.5, detections_per_image=20),
    )


@torch.no_grad()
def network(config: RunConfig, seed: int = 0) -> RCNN:
    """Random weights and norms, scaled so that the network has detections."""
    torch.manual_seed(seed)
    model: Any = config.model.build(CLASSES, config.test)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    for layer, scale in ((model.rpn.objectness, 30), (model.rpn.deltas, 5), (model.class_logits, 30), (model.box_deltas, 30)):
        layer.weight.mul_(scale)
    model.class_logits.bias[-1] = -4.0  # hardly anything is background
    assert isinstance(model, RCNN)
    return model.eval()


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray[Any, Any]:
    """Coarse noise, so that there is something to see at any size."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def same(a: Detections, b: Detections) -> None:
    assert len(a) == len(b) > 3
    assert a.size == b.size
    assert torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)
    assert a.mask_probabilities is not None and b.mask_probabilities is not None
    assert torch.equal(a.mask_probabilities, b.mask_probabilities)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    config = run_config()
    return Predictor(network(config), config.data.val.transforms)


# -------------------------------------------------------------------------------------------------------- accepted images


def test_every_kind_of_image_gives_the_same_detections(predictor: Predictor, tmp_path: Path) -> None:
    pixels = picture()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    expected = predictor(pixels)
    assert expected.size == (60, 80)
    assert expected.names and set(expected.names) <= {"nut", "fig"}
    same(predictor(path), expected)
    same(predictor(str(path)), expected)
    same(predictor(Image.open(path)), expected)
    same(predictor(torch.from_numpy(pixels.copy()).permute(2, 0, 1)), expected)
    (alone,) = predictor([path])
    same(alone, expected)
    for detections in predictor([path, pixels, Image.fromarray(pixels)]):
        assert len(detections) == len(expected)
        torch.testing.assert_close(detections.boxes, expected.boxes, atol=1e-3, rtol=1e-4)
    assert predictor([]) == []
    assert predictor.categories == CLASSES


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_in_memory_equals_its_file(predictor: Predictor, tmp_path: Path, suffix: str, orientation: int) -> None:
    """The bytes of a file and file objects, at any position, turned upright; they can be drawn on too."""
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(path, exif=exif)
    expected, content = predictor(path), path.read_bytes()
    for encoded in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        same(predictor(encoded), expected)
    drawn = expected.draw(path).tobytes()
    with path.open("rb") as file:
        file.seek(7)
        same(predictor(file), expected)
        assert expected.draw(file).tobytes() == expected.draw(content).tobytes() == drawn
        assert not file.closed
    both = predictor([content, io.BytesIO(content)])
    assert [detections.size for detections in both] == [expected.size] * 2


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (b"", "image of 0 bytes: is not an image"),
        (b"no picture", "image of 10 bytes: is not an image"),
        (io.BytesIO(b"no picture"), "image of 10 bytes: is not an image"),
        (io.StringIO("text"), "open the file in binary mode"),
    ],
)
def test_bytes_that_are_no_image_are_refused(predictor: Predictor, broken: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        predictor(broken)
    assert "\n" not in str(error.value)


def test_a_damaged_image_in_memory_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(UserError, match=r"image of [\d,]+ bytes: the image is truncated or damaged"):
        predictor(content[: len(content) // 2])
    closed = (tmp_path / "a.jpg").open("rb")
    closed.close()
    with pytest.raises(UserError, match=r"a\.jpg: the file object cannot be read"):
        predictor(closed)


def test_a_picture_is_turned_upright(predictor: Predictor, tmp_path: Path) -> None:
    pixels, path = picture(), tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter to the right
    Image.fromarray(np.rot90(pixels)).save(path, exif=exif)
    expected = predictor(pixels)
    same(predictor(path), expected)
    same(predictor(Image.open(path)), expected)


def test_grey_and_transparent_pictures_become_rgb(predictor: Predictor) -> None:
    grey = Image.fromarray(picture()).convert("L")
    expected = predictor(np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))
    same(predictor(grey), expected)
    same(predictor(grey.convert("RGBA")), expected)


@pytest.mark.parametrize("value_range", [None, (0, 4095), (100, 3000)])
def test_deep_pixels_give_the_same_detections_from_every_kind_of_picture(
    tmp_path: Path, value_range: tuple[float, float] | None
) -> None:
    """Of 12 bits, by path, as bytes, PIL image, array and tensor; equal to the conversion by hand."""
    config = run_config()
    predictor = Predictor(network(config), config.data.val.transforms, value_range=value_range)
    grey = picture()[:, :, 0].astype(np.uint16) * 16 + 7
    low, high = value_range or (0, 4095)
    by_hand = np.floor((np.clip(grey.astype(float), low, high) - low) / (high - low) * 255 + 0.5).astype(np.uint8)
    expected = predictor(np.repeat(by_hand[:, :, None], 3, axis=2))
    path = tmp_path / "a.png"
    Image.fromarray(grey).save(path)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    for file in (path, tmp_path / "a.tif", path.read_bytes(), Image.open(path), Image.fromarray(grey)):
        same(predictor(file), expected)
    for values in (grey, grey[:, :, None], grey.astype(np.int32), grey.astype(np.float32), np.stack([grey] * 3, axis=2)):
        same(predictor(values), expected)
    for tensor in (torch.from_numpy(grey.copy())[None], torch.from_numpy(grey.astype(np.float32)).expand(3, -1, -1)):
        same(predictor(tensor), expected)


def test_floats_from_0_to_1_and_transparency(predictor: Predictor) -> None:
    pixels = picture()
    expected = predictor(pixels)
    same(predictor(pixels.astype(np.float32) / 255), expected)
    same(predictor(torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255), expected)
    opaque = np.concatenate([pixels, np.full((60, 80, 1), 255, dtype=np.uint8)], axis=2)
    same(predictor(opaque), expected)
    same(predictor(Image.fromarray(opaque)), expected)


def test_a_pil_image_that_cannot_be_read_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with Image.open(path) as opened, pytest.raises(UserError, match="the PIL image cannot be read") as error:
        predictor(opened)
    assert "\n" not in str(error.value)


def test_the_value_range_is_saved_with_the_weights(tmp_path: Path) -> None:
    config = run_config()
    for part in (config.data.train, config.data.val):
        assert isinstance(part, CocoConfig)
        part.value_range = (100, 3000)
    save_weights(tmp_path / "best.safetensors", network(config).state_dict(), config, CLASSES)
    grey = picture()[:, :, 0].astype(np.uint16) * 16
    loaded = load(tmp_path, device="cpu")
    assert loaded.value_range == (100, 3000)
    same(loaded(grey), Predictor(network(config), config.data.val.transforms, value_range=(100, 3000))(grey))


def test_pictures_of_several_sizes_are_one_batch(predictor: Predictor) -> None:
    """Each in pixels of its image. The features at the edge of padding are not quite those at the edge of an image, so the numbers
    are not compared with those of a single picture."""
    sizes = [(60, 80), (90, 50), (40, 40)]
    results = predictor([picture(*size, seed) for seed, size in enumerate(sizes)])
    assert [detections.size for detections in results] == sizes
    for (height, width), detections in zip(sizes, results, strict=True):
        assert len(detections) > 3
        assert (detections.boxes <= torch.tensor([width, height, width, height])).all()
        assert detections.boxes[:, 2].max() > 0.8 * width and detections.boxes[:, 3].max() > 0.8 * height
        assert detections.masks is not None and detections.masks.shape[1:] == (height, width)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((5, 6, 2), dtype=np.uint8), r"\(height, width, 3\) RGB, .*, got \(5, 6, 2\) uint8"),
        (np.zeros((3, 6, 5), dtype=np.uint8), r"got \(3, 6, 5\)"),
        (np.zeros((5, 6, 3), dtype=np.complex64), r"got \(5, 6, 3\) complex64"),
        (np.array([["a"]]), r"got \(1, 1\) <U1"),
        (np.zeros((0, 6, 3), dtype=np.uint8), r"got \(0, 6, 3\)"),
        (torch.zeros(5, 6, 3, dtype=torch.uint8), r"\(3, height, width\) RGB .*, got \(5, 6, 3\) torch.uint8"),
        (torch.zeros(3, 5, 6, dtype=torch.complex64), r"got \(3, 5, 6\) torch.complex64"),
        (torch.zeros(1, 3, 5, 6, dtype=torch.uint8), r"got \(1, 3, 5, 6\)"),
        (torch.zeros(3, 5, 0, dtype=torch.uint8), r"got \(3, 5, 0\)"),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(predictor: Predictor, wrong: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        predictor(wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (None, r"got None of type NoneType; cv2\.imread returns None for a file"),
        ([None], r"got None of type NoneType; cv2\.imread"),
        (0, "got 0 of type int"),
        (0.5, "got 0.5 of type float"),
        (False, "got False of type bool"),
        ({}, r"got \{\} of type dict"),
        ((picture for picture in ()), "of type generator"),
        ([["a.jpg"]], "of type list"),
    ],
)
def test_values_that_are_no_pictures_are_refused(predictor: Predictor, wrong: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"expected a picture .*{words}") as error:
        predictor(wrong)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_image_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no")
    with pytest.raises(UserError, match=r"a\.jpg"):
        predictor(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="absent"):
        predictor(tmp_path / "absent.jpg")


# ------------------------------------------------------------------------------------------------------ the original frame


def direct(model: nn.Module, image: Tensor) -> Detections:
    """The detections of a network's input, in its pixels."""
    height, width = image.shape[-2:]
    batch = Batch(image[None], torch.tensor([[height, width]]), ((height, width),))
    with torch.no_grad():
        (detections,) = model.detections(model(batch), batch)  # type: ignore[operator]
    assert isinstance(detections, Detections)
    return detections


def test_boxes_are_in_pixels_of_the_original_picture() -> None:
    """A picture that is doubled for the network: its boxes are half of the network's, its masks have the size of the picture."""
    config = run_config(short=128)
    predictor = Predictor(network(config), config.data.val.transforms)
    pixels = picture(64, 96)
    detections = predictor(pixels)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    doubled = torch.nn.functional.interpolate(image, (128, 192), mode="bilinear", antialias=True)[0]
    expected = direct(predictor.model, doubled)
    assert len(detections) == len(expected) > 3
    assert detections.size == (64, 96)
    torch.testing.assert_close(detections.boxes, expected.boxes / 2)
    torch.testing.assert_close(detections.scores, expected.scores)
    assert detections.masks is not None and detections.masks.shape == (len(detections), 64, 96)


# ----------------------------------------------------------------------------------------------------------------- prepare


@pytest.mark.parametrize(
    "backbone", [ResNetConfig(depth=18, width=32, weights=None), MobileNetV2Config(weights=None)], ids=["resnet", "mobile"]
)
def test_prepare_changes_no_results(backbone: Any) -> None:
    config = run_config(backbone=backbone)
    model = network(config)
    images = torch.stack([torch.from_numpy(picture(96, 128, seed).copy()).permute(2, 0, 1) for seed in (0, 1)])
    batch = Batch(images, torch.tensor([[96, 128]] * 2), ((96, 128),) * 2)
    with torch.no_grad():
        before = model(batch)
        detections_before = model.detections(before, batch)
        assert any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
        assert prepare(model) is model
        after = model(batch)
        detections_after = model.detections(after, batch)
    norms = [module for module in model.modules() if isinstance(module, ConvNorm)]
    assert norms and all(isinstance(module.norm, nn.Identity) for module in norms)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in model.modules())
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    scale = float(before.rpn.logits.abs().max())
    torch.testing.assert_close(after.rpn.logits / scale, before.rpn.logits / scale, atol=1e-5, rtol=0)
    for a, b in zip(detections_before, detections_after, strict=True):
        assert len(a) == len(b) > 3
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(b.boxes, a.boxes, atol=1e-2, rtol=1e-4)
        torch.testing.assert_close(b.scores, a.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(b.mask_probabilities, a.mask_probabilities, atol=1e-4, rtol=0)


def test_prepare_keeps_norms_that_are_not_frozen() -> None:
    config = run_config(backbone=ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None))
    predictor = Predictor(network(config), config.data.val.transforms)
    kinds = {type(module.norm) for module in predictor.model.modules() if isinstance(module, ConvNorm)}
    assert kinds == {nn.GroupNorm}


# -------------------------------------------------------------------------------------------------------------------- load


def test_loading_a_run_or_a_file(tmp_path: Path) -> None:
    config = run_config()
    best, last = network(config, seed=1), network(config, seed=2)
    pixels = picture()
    save_weights(tmp_path / "last.safetensors", last.state_dict(), config, CLASSES)
    from_last = load(tmp_path, device="cpu")(pixels)
    save_weights(tmp_path / "best.safetensors", best.state_dict(), config, CLASSES)
    from_best = load(tmp_path, device="cpu")(pixels)
    same(load(tmp_path / "last.safetensors", device="cpu")(pixels), from_last)
    same(load(str(tmp_path / "best.safetensors"), device="cpu")(pixels), from_best)
    same(Predictor(best, config.data.val.transforms)(pixels), from_best)
    assert not torch.equal(from_best.boxes, from_last.boxes)
    assert load(tmp_path, device="cpu").categories == CLASSES


def test_loading_does_not_fetch_imagenet_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config()
    model = network(config)
    config.model = config.model.model_copy(update={"backbone": ResNetConfig(depth=18, width=32, weights="IMAGENET1K_V1")})
    save_weights(tmp_path / "best.safetensors", model.state_dict(), config, CLASSES)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("weights were fetched")

    monkeypatch.setattr("boxwood.models.backbones.resnet.imagenet_weights", refuse)
    assert len(load(tmp_path, device="cpu")(picture())) > 3


def test_runs_that_cannot_be_loaded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best\.safetensors nor last\.safetensors"):
        load(tmp_path)
    with pytest.raises(UserError, match="no such run or weights file"):
        load(tmp_path / "absent.safetensors")
    config = run_config()
    save_weights(tmp_path / "best.safetensors", network(config).state_dict(), config, CLASSES)
    with pytest.raises(UserError, match="device=abacus"):
        load(tmp_path, device="abacus")
    state = {name: value for name, value in network(config).state_dict().items() if not name.startswith("mask_logits")}
    save_weights(tmp_path / "best.safetensors", state, config, CLASSES)
    with pytest.raises(UserError, match=r"2 tensors missing \(mask_logits"):
        load(tmp_path)
