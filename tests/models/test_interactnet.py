"""InteractNet: scores beside an independent calculation, losses beside arithmetic on each pair, and what may teach what."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.errors import UserError
from boxwood.fields import Affine
from boxwood.inference.tta import AugmentedDetector
from boxwood.interactions import DetectedInteractions, InteractionFacts, Interactions
from boxwood.models.heads import InteractionHeadConfig
from boxwood.models.inference_config import BoxViewsConfig, TTAConfig
from boxwood.models.postprocess import Instances
from boxwood.models.second_stage import RoISample
from boxwood.models.tasks import InteractionTask
from boxwood.ops.interactions import best_triples, log_density, relative_boxes
from boxwood.structures import Batch, Categories, Target
from tests.evaluation.interaction_cases import facts
from tests.models.toys import CATEGORIES, TEST, _rcnn, batch, build, randomize_weights

# ----------------------------------------------------------------------------------------------------------------- scores


def double(name: str) -> Tensor:
    return torch.tensor(facts("scores")[name], dtype=torch.float64)


@pytest.mark.parametrize("convention", ["continuous", "plus_one"])
def test_scores_are_those_of_an_independent_calculation(convention: str) -> None:
    expected = facts("scores")["expected"][convention]
    last = torch.tensor([0, 0, 1, 1]) if convention == "plus_one" else torch.zeros(4)
    relative = relative_boxes(double("human_boxes") + last, double("object_boxes") + last)
    torch.testing.assert_close(relative, torch.tensor(expected["b_o_given_h"], dtype=torch.float64), atol=1e-8, rtol=0)
    density = log_density(relative, double("target_mean"), facts("scores")["sigma"])
    torch.testing.assert_close(density.exp(), torch.tensor(expected["g"], dtype=torch.float64), atol=1e-8, rtol=0)
    has_object = torch.tensor(facts("scores")["action_has_object"])
    actions = double("human_centric_action_logits")
    pairs = double("interaction_human_logits")[:, None] + double("interaction_object_logits")
    allowed = has_object.expand(*density.shape)
    for branch, logits in (("with_interaction_branch", pairs), ("without_interaction_branch", None)):
        scores = double("human_scores"), double("object_scores")
        found = best_triples(*scores, actions, allowed, density=density, pair_logits=logits)
        for triple in expected["triplets"][branch]:
            place = triple["human"], triple["action"]
            if triple["object"] is None:
                assert not found.exists[place]
                assert float(found.agent[place]) == pytest.approx(triple["score"], abs=1e-8)
            else:
                assert int(found.objects[place]) == triple["object"], (branch, place)
                assert float(found.score[place]) == pytest.approx(triple["score"], abs=1e-8)


def test_far_objects_are_ranked_though_their_densities_are_zero() -> None:
    humans, objects = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[300.0, 0, 310, 10], [200.0, 0, 210, 10]])
    density = log_density(relative_boxes(humans, objects), torch.zeros(1, 1, 4), 0.3)
    assert float(density.exp().max()) == 0
    found = best_triples(torch.ones(1), torch.ones(2), torch.zeros(1, 1), torch.ones(1, 2, 1, dtype=torch.bool), density=density)
    assert int(found.objects) == 1 and float(found.score) == 0 and float(found.empty) == 0.5


def test_claims_of_the_network_one_by_one() -> None:
    """Every human and action of an image by loops over the logits."""
    network: Any = build("interactnet_fpn")
    (task,) = network.tasks
    verbs = CATEGORIES.interactions
    assert verbs is not None
    torch.manual_seed(3)
    boxes = torch.tensor([[10.0, 10, 40, 90], [50, 20, 80, 100], [30, 30, 50, 50], [70, 10, 90, 40], [0, 0, 5, 5]])
    labels, scores = torch.tensor([0, 0, 1, 2, 1]), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    valid = torch.tensor([True, True, True, True, False])
    instances = Instances(boxes[None], scores[None], labels[None], valid[None])
    logits = torch.randn(5, 6 * len(verbs.actions))
    claims = task.decode(network, logits, torch.arange(5), instances, batch([(100, 100)]))
    A = len(verbs.actions)
    for human in range(5):
        for action in range(A):
            agent, score, empty, *box, object_score, label = claims[human, action].tolist()
            if human > 1:
                assert (agent, score, empty, label) == (0, 0, 0, -1)
                continue
            s_a = float(logits[human, action].sigmoid())
            mu = logits[human, A + 4 * action : A + 4 * action + 4]
            best, fit = (0.0, -1), 0.0
            for target in range(4):
                if target == human or not verbs.has_object[action]:
                    continue
                (x1, y1, x2, y2), (u1, v1, u2, v2) = boxes[human].tolist(), boxes[target].tolist()
                w, h = x2 - x1, y2 - y1
                place = [(u1 + u2 - x1 - x2) / 2 / w, (v1 + v2 - y1 - y2) / 2 / h, math.log((u2 - u1) / w), math.log((v2 - v1) / h)]
                g = math.exp(-sum((p - m) ** 2 for p, m in zip(place, mu.tolist(), strict=True)) / (2 * 0.3**2))
                pair = float((logits[human, action] + logits[target, 5 * A + action]).sigmoid())
                best = max(best, (float(scores[human] * scores[target]) * pair * g, target))
                fit = max(fit, float(scores[target]) * g)
            assert agent == pytest.approx(float(scores[human]) * s_a, rel=1e-5)
            assert score == pytest.approx(best[0], rel=1e-4)
            if verbs.has_object[action]:
                assert empty == pytest.approx(agent * (1 - fit), rel=1e-5)
                assert (label, box) == (float(labels[best[1]]), pytest.approx(boxes[best[1]].tolist()))
                assert object_score == pytest.approx(float(scores[best[1]]))
            else:
                assert (score, empty, label) == (0, 0, -1)


def test_a_verb_takes_the_objects_of_its_classes_alone() -> None:
    verbs = InteractionFacts((5, 6), ("ride", "eat"), (("obj",), ("obj",)), classes=((5, 2), (6, 3)))
    network: Any = _rcnn(interaction_head=InteractionHeadConfig(width=16, human="disc")).build(
        replace(CATEGORIES, interactions=verbs), TEST
    )
    boxes = torch.tensor([[[0.0, 0, 20, 20], [20, 0, 40, 20], [0, 20, 20, 40]]])
    valid = torch.ones(1, 3, dtype=torch.bool)
    instances = Instances(boxes, torch.full((1, 3), 0.5), torch.tensor([[0, 1, 2]]), valid)
    claims = network.tasks[0].decode(network, torch.zeros(3, 12), torch.arange(3), instances, batch([(40, 40)]))
    assert claims[0, :, 8].tolist() == [1, 2]


def test_an_image_without_objects_or_humans_has_claims_without_them() -> None:
    network: Any = build("interactnet_fpn")
    (task,) = network.tasks
    for label, agent in ((0, 0.45), (1, 0.0)):
        instances = Instances(
            torch.tensor([[[0.0, 0, 9, 9]]]), torch.tensor([[0.9]]), torch.tensor([[label]]), torch.tensor([[True]])
        )
        claims = task.decode(network, torch.zeros(1, 24), torch.tensor([0]), instances, batch([(40, 40)]))
        assert claims[0, 0].tolist() == pytest.approx([agent, 0, agent, 0, 0, 0, 0, 0, -1])


def test_parts_left_out_and_logits_of_their_own() -> None:
    def build_with(**options: Any) -> Any:
        torch.manual_seed(0)
        return _rcnn(interaction_head=InteractionHeadConfig(width=16, human="disc", **options)).build(CATEGORIES, TEST).eval()

    names = {
        options: sorted({name.split(".")[0] for name in build_with(**dict(options)).state_dict() if name.startswith("interaction")})
        for options in ((), (("density", False),), (("interaction_branch", False),), (("share_human_logits", False),))
    }
    human = ["interaction_actions", "interaction_head"]
    assert names[("density", False),] == [*human, "interaction_pair_head", "interaction_pair_objects"]
    assert names[("interaction_branch", False),] == [*human, "interaction_targets"]
    whole = sorted([*human, "interaction_targets", "interaction_pair_head", "interaction_pair_objects"])
    assert names[()] == whole and names[("share_human_logits", False),] == sorted([*whole, "interaction_pair_humans"])
    for options in names:
        network = build_with(**dict(options))
        randomize_weights(network)
        (found,) = network.detections(network(images := batch([(96, 96)])), images)
        assert isinstance(found.fields["interactions"], DetectedInteractions)
        losses = network.losses(network(data := batch([(96, 96), (64, 96)], [4, 5])), data.targets)
        expected = {"loss_interaction_action", *(["loss_interaction_target"] if ("density", False) not in options else [])}
        expected |= {"loss_interaction_pair"} if ("interaction_branch", False) not in options else set()
        assert {name for name in losses if "interaction" in name} == expected


# ----------------------------------------------------------------------------------------------------------------- losses


def case(pairs: list[tuple[int, int, int]], known: list[bool]) -> tuple[Any, Tensor, RoISample, list[Target]]:
    """Six RoIs of one image: of the instances 0, 0, 1, 2, 3 and background."""
    network: Any = build("interactnet_fpn")
    truth = torch.tensor([[0.0, 0, 20, 40], [30, 0, 50, 40], [60, 0, 70, 10], [60, 30, 80, 40]])
    labels = torch.tensor([0, 0, 1, 2])
    instances = torch.tensor([[0, 0, 1, 2, 3, 0]])
    boxes = truth[instances] + torch.tensor([[0.0, 1, -1, 0.5, 0, 20]])[..., None]
    nothing = torch.zeros(1, 6, 4)
    sample = RoISample(
        boxes, torch.ones(1, 6, dtype=torch.bool), torch.tensor([[0, 0, 0, 1, 2, 3]]), instances, nothing, torch.ones(1, 2)
    )
    field = Interactions(torch.tensor(known), torch.tensor(pairs, dtype=torch.int64).view(-1, 3))
    target = Target(truth, labels, torch.zeros(0, 4), fields={"interactions": field})
    torch.manual_seed(1)
    return network, torch.randn(6, 24, requires_grad=True), sample, [target]


def test_losses_are_the_mean_over_what_teaches() -> None:
    pairs = [(0, 0, 2), (0, 1, -1), (0, 3, 3), (0, 2, -1)]  # hold ring 2, roll, cut instr (none), cut obj 3
    network, logits, sample, targets = case(pairs, [True, False, False, False])
    losses = network.tasks[0].loss(network, logits, torch.arange(6), sample, targets)
    right = torch.tensor([1.0, 1, 1, 1])
    action = [F.binary_cross_entropy_with_logits(logits[row, :4], right) for row in (0, 1)]  # both RoIs of human 0
    assert losses["loss_interaction_action"].item() == pytest.approx(2 * sum(loss.item() for loss in action) / 2, rel=1e-5)

    places, pair = [], []
    for row in (0, 1):
        for act, target_row in ((0, 3), (3, 4)):
            roi, thing = sample.boxes[0, row].tolist(), targets[0].boxes[target_row - 1].tolist()
            w, h = roi[2] - roi[0], roi[3] - roi[1]
            wanted = [
                (thing[0] + thing[2] - roi[0] - roi[2]) / 2 / w,
                (thing[1] + thing[3] - roi[1] - roi[3]) / 2 / h,
                math.log((thing[2] - thing[0]) / w),
                math.log((thing[3] - thing[1]) / h),
            ]
            errors = (logits[row, 4 + 4 * act : 8 + 4 * act] - torch.tensor(wanted)).abs()
            places.append(torch.where(errors < 1, errors**2 / 2, errors - 0.5).sum().item())
            summed = (logits[row, :4] + logits[target_row, 20:24])[[0, 2, 3]]  # roll has no object
            labels = torch.tensor([float(act == index) for index in (0, 2, 3)])
            pair.append(F.binary_cross_entropy_with_logits(summed, labels).item())
    assert losses["loss_interaction_target"].item() == pytest.approx(np.mean(places), rel=1e-5)
    assert losses["loss_interaction_pair"].item() == pytest.approx(np.mean(pair), rel=1e-5)


def test_unknown_humans_and_other_objects_teach_nothing() -> None:
    network, logits, sample, targets = case([(0, 0, 2)], [True, False, False, False])
    sum(network.tasks[0].loss(network, logits, torch.arange(6), sample, targets).values()).backward()
    assert logits.grad is not None
    taught = logits.grad != 0
    assert taught[:2, :4].all()
    assert not taught[2].any() and not taught[5].any()  # a human of whom nothing is known, background
    assert taught[3, 20:].tolist() == [True, False, True, True]  # the object of the pair; roll has no object
    assert not taught[4].any()  # an object of no pair
    assert taught[0, 4:8].all() and not taught[0, 8:20].any()  # the place of the one object


def test_known_humans_who_do_nothing_teach_that() -> None:
    network, logits, sample, targets = case([], [True, True, False, False])
    losses = network.tasks[0].loss(network, logits, torch.arange(6), sample, targets)
    assert losses["loss_interaction_action"].item() == pytest.approx(2 * F.softplus(logits[:3, :4]).mean().item(), rel=1e-5)
    assert losses["loss_interaction_target"].item() == losses["loss_interaction_pair"].item() == 0


@pytest.mark.parametrize("fields", [{}, {"interactions": Interactions(torch.zeros(4, dtype=torch.bool), torch.zeros(0, 3).long())}])
def test_a_batch_without_any_known_human_has_losses_of_zero_and_gradients(fields: dict[str, Any]) -> None:
    network, logits, sample, (target,) = case([], [False] * 4)
    target.fields.clear()
    target.fields.update(fields)
    losses = network.tasks[0].loss(network, logits, torch.arange(6), sample, [target])
    total = sum(losses.values())
    total.backward()
    assert total.item() == 0 and logits.grad is not None and logits.grad.isfinite().all()


def test_at_most_so_many_humans_of_an_image_teach() -> None:
    _, logits, sample, targets = case([], [True, True, False, False])
    config = _rcnn(interaction_head=InteractionHeadConfig(width=16, human="disc", humans_per_image=2))
    limited: Any = config.build(CATEGORIES, TEST)
    loss = limited.tasks[0].loss(limited, logits, torch.arange(6), sample, targets)["loss_interaction_action"]
    assert loss.item() == pytest.approx(2 * F.softplus(logits[:2, :4]).mean().item(), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- the network


def test_data_without_interactions_or_humans_are_refused() -> None:
    task = InteractionTask(head=InteractionHeadConfig())
    with pytest.raises(UserError, match=r"data\.train: has no human-object interactions"):
        task.check_data(Categories((1,), ("person",)), lambda: None, "data.train")
    with pytest.raises(UserError, match=r"data\.train: has no class 'person'.*set model\.interaction_head\.human to one of disc"):
        task.check_data(CATEGORIES, lambda: None, "data.train")


def test_mirrored_logits_are_those_of_the_mirrored_world() -> None:
    network: Any = build("interactnet_fpn")
    (task,) = network.tasks
    torch.manual_seed(0)
    logits, boxes = torch.randn(3, 24), torch.tensor([[10.0, 10, 30, 60], [50, 20, 70, 40], [5, 60, 25, 80]])
    flipped = torch.stack([100 - boxes[:, 2], boxes[:, 1], 100 - boxes[:, 0], boxes[:, 3]], dim=1)

    def claims(values: Tensor, places: Tensor) -> Tensor:
        valid = torch.ones(1, 3, dtype=torch.bool)
        instances = Instances(places[None], torch.full((1, 3), 0.5), torch.tensor([[0, 1, 2]]), valid)
        found: Tensor = task.decode(network, values, torch.arange(3), instances, batch([(100, 100)]))
        return found

    torch.testing.assert_close(claims(task.mirrored(network, logits), flipped)[..., :3], claims(logits, boxes)[..., :3])


def test_boxes_of_objects_are_scaled_to_the_original() -> None:
    network: Any = build("interactnet_fpn", TEST.model_copy(update={"score_threshold": 0.0, "detections_per_image": 30}))
    data = batch([(96, 128)])
    larger = Batch(data.images, data.sizes, ((192, 384),), data.image_ids, data.file_names, data.seeds)
    (small,), (large,) = network.detections(network(data), data), network.detections(network(larger), larger)
    values, scaled = (found.fields["interactions"].values for found in (small, large))
    expected = values.clone()
    expected[..., 3:7] *= torch.tensor([3.0, 2, 3, 2])
    torch.testing.assert_close(scaled, expected)
    assert any(record.get("interactions") for record in large.to_coco(1, (1, 2, 3)))


def test_interactions_of_a_mirrored_image_are_mirrored() -> None:
    """Of both views together, so that the network's answers to either do not matter."""
    network: Any = build("interactnet_fpn", TEST.model_copy(update={"score_threshold": 0.02, "nms_threshold": 0.9}))
    test = network.test.model_copy(update={"tta": TTAConfig(boxes=BoxViewsConfig(flip=True))})
    image = batch([(96, 128)]).images[0]
    both = []
    for pixels in (image, image.flip(-1)):
        data = Batch(pixels[None], torch.tensor([(96, 128)]), ((96, 128),), (1,), ("a",), (0,))
        with torch.no_grad():
            detector = AugmentedDetector(network, (), test)
            both += detector.detections(detector(data), data)
    first, second = both
    assert len(first) == len(second) > 2
    torch.testing.assert_close(first.scores, second.scores, atol=1e-4, rtol=0)
    claims = first.fields["interactions"].transformed(Affine.flip((96, 128)))
    assert isinstance(claims, DetectedInteractions) and claims.values[..., 0].any()
    torch.testing.assert_close(claims.values, second.fields["interactions"].values, atol=2e-2, rtol=0)  # type: ignore[attr-defined]
