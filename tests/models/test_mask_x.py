"""Mask^X R-CNN beside numbers of the paper's program (``tests/facts/mask_x``), and what it may and may not learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.fields import InstanceMasks, Polygons, Segmentations
from boxwood.inference.predictor import prepare
from boxwood.interop.onnx import FixedSizeProgram
from boxwood.models import RCNNConfig
from boxwood.models.detector import Network
from boxwood.models.heads import MaskXHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.second_stage import RoISample
from boxwood.models.tasks import MaskXTask
from boxwood.models.tasks.mask import mask_loss
from boxwood.models.tasks.mask_x import TransferFunction, detector_weights
from boxwood.ops.masks import mask_targets, rasterize_polygons
from boxwood.structures import Batch, Categories
from tests.models.test_export import instances_of
from tests.models.toys import ARCHITECTURES, CATEGORIES, TEST, batch, build

FACTS = Path(__file__).parents[1] / "facts" / "mask_x"
CLASSES = Categories((1, 2, 3, 4, 5), ("a", "b", "c", "d", "e"))
VARIANTS: dict[str, dict[str, Any]] = {
    "xrcnn": {"mlp_branch": True},
    "transfer": {},
    "with_gradient": {"stop_gradient": False},
    "cls": {"inputs": "cls"},
    "box": {"inputs": "box"},
    "relu": {"negative_slope": 0.0},
    "one_layer": {"layers": 1},
    "three_layer": {"layers": 3},
    "agnostic": {"inputs": None},
    "agnostic_mlp": {"inputs": None, "mlp_branch": True},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """The arrays of both files; background is the first class, as in Detectron."""
    arrays = {name: value for part in ("heads", "transfer") for name, value in np.load(FACTS / f"{part}.npz").items()}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


class Heads(Network):
    """The box head's last layers, and the modules of the task, whose head passes features on."""

    def __init__(self, golden: dict[str, Tensor], task: MaskXTask) -> None:
        super().__init__(RCNNConfig(), CLASSES, TestConfig())
        self.class_logits, self.box_deltas = nn.Linear(1024, 6), nn.Linear(1024, 20)
        self.mask_head = nn.Identity()
        for name, module in task.modules(self, 8).items():
            self.add_module(name, module)
        scores, boxes = golden["det.cls_score_w"].float(), golden["det.bbox_pred_w"].float()
        self.class_logits.weight = nn.Parameter(torch.cat([scores[1:], scores[:1]]))  # background is last here
        self.box_deltas.weight = nn.Parameter(boxes[4:])

    def forward(self, batch: Batch) -> Any: ...

    def losses(self, output: Any, targets: Any) -> Any: ...


def task_of(variant: str) -> MaskXTask:
    # A head behind a tail halves and doubles the resolution.
    return MaskXTask(head=MaskXHeadConfig(**{"mlp_branch": False, "source": "tail", "resolution": 7, **VARIANTS[variant]}))


def network_of(golden: dict[str, Tensor], variant: str, task: MaskXTask) -> Heads:
    network = Heads(golden, task)
    columns = {"cls": slice(0, 1024), "box": slice(1024, 5120)}.get(variant, slice(0, 5120))
    hidden = ("bbox2mask_mlp_l1", "bbox2mask_mlp_l2")[: task.head.layers - 1]
    biases = (*hidden, "mask_fcn_logits_w_flat")
    weights = biases if hidden else ("bbox2mask_mlp_l1",)  # the arrays have no other weight of this shape
    with torch.no_grad():
        if task.head.inputs is not None:
            layer: Any
            layers: Any = network.get_submodule("mask_transfer.layers")
            for index, layer in enumerate(layers):
                weight = golden[f"param.{weights[index]}_w"].float()
                layer.weight.copy_(weight[:, columns] if index == 0 else weight)
                layer.bias.copy_(golden[f"param.{biases[index]}_b"].float())
        else:
            layer = network.get_submodule("mask_logits")
            layer.weight.copy_(golden["param.mask_fcn_logits_w_flat_w"][:1, :, None, None].float())
            layer.bias.zero_()
        if task.head.mlp_branch:
            branch: Any = network.get_submodule("mask_mlp")
            branch.weight.copy_(golden["param.mask_mlp_logits_raw_w"].float())
            branch.bias.copy_(golden["param.mask_mlp_logits_raw_b"].float())
    return network


def loss_of(logits: Tensor, golden: dict[str, Tensor]) -> Tensor:
    """The mask loss, each RoI being exactly one image and the rectangle of its instance's mask."""
    count = len(logits)
    boxes = torch.tensor([0.0, 0, 7, 7]).expand(count, 1, 4)
    zeros = torch.zeros(count, 1, dtype=torch.int64)
    labels = golden["roi_class"][:, None] - 1
    sample = RoISample(boxes, torch.ones(count, 1, dtype=torch.bool), labels, zeros, torch.zeros(count, 1, 4), torch.ones(count, 2))
    bitmaps = golden["roi_mask_target"].to(torch.uint8)
    masks = [InstanceMasks(bitmap[None], torch.tensor([[0.0, 0, 7, 7]])) for bitmap in bitmaps]
    return mask_loss(logits, torch.arange(count), sample, masks, binary_targets=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_losses_and_gradients_are_the_papers(golden: dict[str, Tensor], variant: str) -> None:
    task = task_of(variant)
    network = network_of(golden, variant, task)
    features = golden["features"].float().requires_grad_()
    logits = task.logits(network, features)
    loss = loss_of(logits, golden)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.shape == (4, 5, 7, 7)
    assert loss.item() == pytest.approx(golden[f"{variant}.loss"].item(), abs=1e-5)
    close = {"rtol": 1e-5, "atol": 1e-5}
    if task.head.inputs is not None:
        torch.testing.assert_close(task.kernels(network), golden[f"{variant}.kernel"][1:], **close)
    if (expected := golden.get(f"{variant}.logits")) is not None:
        torch.testing.assert_close(logits, expected[:, 1:] if task.head.inputs else expected.expand(-1, 5, -1, -1), **close)

    parameters = dict(network.named_parameters())
    last = f"mask_transfer.layers.{task.head.layers - 1}"
    gradients = {
        "x": features.grad,
        "bbox2mask_mlp_l1_b": parameters.get("mask_transfer.layers.0.bias", features).grad,
        "bbox2mask_mlp_l2_w": parameters.get("mask_transfer.layers.1.weight", features).grad,
        "mask_fcn_logits_w_flat_w": parameters.get(f"{last}.weight", features).grad,
        "mask_fcn_logits_w_flat_b": parameters.get(f"{last}.bias", features).grad,
        "mask_mlp_logits_raw_b": parameters.get("mask_mlp.bias", features).grad,
        "cls_score_w": network.class_logits.weight.grad,
        "bbox_pred_w": network.box_deltas.weight.grad,
    }
    known = {name.rpartition(".")[2]: value for name, value in golden.items() if name.startswith(f"{variant}.grad.")}
    if variant == "with_gradient":  # of the two classes of the RoIs, the only ones that differ from 0
        for name in ("cls_score_w", "bbox_pred_w"):
            value = gradients[name]
            assert value is not None
            value = value[:5] if name == "cls_score_w" else value.reshape(5, -1)
            assert not value[[1, 3, 4]].any()
            gradients[name] = value[[0, 2]]
    else:
        assert gradients["cls_score_w"] is None and gradients["bbox_pred_w"] is None
    for name, expected in known.items():
        torch.testing.assert_close(gradients[name], expected, **close)


def test_probabilities_are_those_of_the_boxes_class(golden: dict[str, Tensor]) -> None:
    task = task_of("xrcnn")
    network = network_of(golden, "xrcnn", task)
    labels = golden["roi_class"] - 1
    probabilities = task.values(network, task.logits(network, golden["features"].float()), labels)
    expected = golden["xrcnn.logits"][torch.arange(4), labels + 1].sigmoid()
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-5)


def test_a_class_may_be_given_as_any_vector(golden: dict[str, Tensor]) -> None:
    """The paper also tried word vectors of the classes' names."""
    function = TransferFunction(300, 8, 2, 0.1)
    names = ("embed.bbox2mask_mlp_l1_w", "bbox2mask_mlp_l1_b", "mask_fcn_logits_w_flat_w", "mask_fcn_logits_w_flat_b")
    values = [golden[f"param.{name}"].float() for name in names]
    function.load_state_dict(dict(zip(function.state_dict(), values, strict=True)))
    torch.testing.assert_close(function(golden["embed"].float()), golden["embed.kernel"], rtol=1e-5, atol=1e-5)


def test_targets_are_the_papers_but_for_its_leak() -> None:
    """RoI 3 overlaps class 4's polygon most. Classes 1 and 3 alone have masks, and yet the paper's program teaches it that shape;
    here it learns its instance's."""
    facts = json.loads((FACTS / "targets.json").read_text())
    polygons = [Polygons([np.array(part, np.float32).reshape(-1, 2) for part in parts]) for parts in facts["polygons"]]
    boxes, labels = torch.tensor(facts["boxes_xyxy"]), facts["labels"]
    taught = [row for row, label in enumerate(labels) if label in (1, 3)]
    assert taught == [row for row, has_mask in enumerate(facts["filtered.roi_has_mask_int32"]) if has_mask] == [0, 1, 2, 3, 8]
    instance = {row: facts["gt_classes"].index(labels[row]) for row in taught}
    masks = Segmentations(polygons).for_training(torch.tensor([item.extent() for item in polygons]))
    sampled = mask_targets(masks.bitmaps, masks.boxes, boxes[taught], torch.tensor(list(instance.values())), 7)
    for row, target, theirs in zip(taught, sampled, facts["filtered.masks_int32"], strict=True):
        expected = np.array(theirs).reshape(6, 7, 7)[labels[row]]
        rasterized = {index: rasterize_polygons(polygons[index].parts, tuple(boxes[row].tolist()), 7) for index in range(4)}
        leaks = row == 3
        assert (rasterized[3 if leaks else instance[row]] == expected).all()
        assert (rasterized[instance[row]] == expected).all() != leaks
        # The step's targets are sampled from a finer bitmap, which decides a cell at the border otherwise now and then.
        assert ((target >= 0.5).numpy() != rasterized[instance[row]]).sum() <= 3


# ------------------------------------------------------------------------------------------------------ the whole network


def test_the_mask_loss_leaves_the_detector_alone() -> None:
    model = build("mask_x_rcnn_fpn").train()
    data = batch([(96, 96)], [3])
    model.losses(model(data), data.targets)["loss_mask"].backward()
    assert model.class_logits.weight.grad is None and model.box_deltas.weight.grad is None
    assert all(parameter.grad.any() for parameter in model.mask_transfer.parameters())
    assert all(parameter.grad.any() for parameter in model.mask_mlp.parameters())


def test_an_instance_without_a_mask_teaches_its_box_alone() -> None:
    """Losses of the boxes are those with its mask; the gradient of the mask loss is that of a batch in which no such RoI exists."""
    model = build("mask_x_rcnn_fpn").train()
    data = batch([(96, 96)], [3])
    assert data.targets is not None and data.targets[0].masks is not None
    before = model.losses(model(data), data.targets)
    data.targets[0].masks.bitmaps[data.targets[0].labels != 0] = 0
    after = model.losses(model(data), data.targets)
    assert {name: before[name] == after[name] for name in before} == {name: name != "loss_mask" for name in before}
    data.targets[0].masks.bitmaps[:] = 0
    assert model.losses(model(data), data.targets)["loss_mask"] == 0


def test_kernels_are_folded_into_a_convolution_for_inference() -> None:
    model = build("mask_x_rcnn_fpn")
    data = batch([(96, 128)])
    with torch.no_grad():
        before = model(data).instances
        fused: Any = prepare(model)
        after = fused(data).instances
    assert "mask_transfer" not in fused._modules and isinstance(fused.mask_logits, nn.Conv2d)
    assert fused.mask_logits.weight.shape == (3, 16, 1, 1) and fused.mask_logits.bias is None
    assert before.valid.any()
    torch.testing.assert_close(after.fields["masks"], before.fields["masks"], rtol=1e-5, atol=1e-5)
    assert prepare(fused) is fused


@pytest.mark.slow
def test_the_fused_network_is_exported_without_the_transfer_function() -> None:
    data = batch([(96, 128)])
    with torch.no_grad():
        expected = instances_of(build("mask_x_rcnn_fpn"), data)
        program = torch.export.export(FixedSizeProgram(prepare(build("mask_x_rcnn_fpn"))), (data.images, data.sizes), strict=False)
        got = program.module()(data.images, data.sizes)
    assert "model.mask_logits.weight" in program.state_dict
    assert not [name for name in program.state_dict if "transfer" in name]
    rows = expected["valid"]
    assert rows.any() and torch.equal(got["valid"], rows)
    torch.testing.assert_close(got["masks"][rows], expected["masks"][rows], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("inputs", "length"), [("cls", 24), ("box", 96), ("cls+box", 120)])
def test_inputs_of_the_transfer_function(inputs: str, length: int) -> None:
    """A class's logit comes first, then dx, dy, dw, dh."""
    model = build("mask_x_rcnn_fpn")
    weights = detector_weights(model, inputs)
    assert weights.shape == (3, length)
    if inputs != "cls":
        torch.testing.assert_close(weights[2, -96:], model.box_deltas.weight[8:12].flatten())
    if inputs != "box":
        torch.testing.assert_close(weights[2, :24], model.class_logits.weight[2])


def test_box_heads_without_weights_of_a_class_are_refused() -> None:
    agnostic: Any = ARCHITECTURES["mask_x_rcnn_fpn"]()
    agnostic.rois.class_agnostic = True
    with pytest.raises(UserError, match="class_agnostic=true has one set for all; set it to false, or inputs to cls"):
        agnostic.build(CATEGORIES, TEST)
    agnostic.mask_head.inputs = "cls"
    assert agnostic.build(CATEGORIES, TEST).get_submodule("mask_transfer")
    network = build("mask_x_rcnn_fpn")
    network.class_logits = nn.Linear(24, 3)  # a sigmoid of each class
    with pytest.raises(UserError, match="class_logits has 3 outputs, as a sigmoid for each class has"):
        network.tasks[0].modules(network, 16)


def test_titles() -> None:
    titles = [RCNNConfig(mask_head=MaskXHeadConfig(inputs=inputs)).title for inputs in ("cls", None)]
    assert titles == ["Mask^X R-CNN, ResNet-50-FPN", "class-agnostic Mask R-CNN, ResNet-50-FPN"]
