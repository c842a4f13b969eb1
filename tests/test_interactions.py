"""The fields of interactions: selection, joining, mirroring, records."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from boxwood.data import CocoConfig
from boxwood.data.coco import CocoDataset
from boxwood.data.loader import collate, make_target
from boxwood.data.packing import PackedBatch
from boxwood.fields import Affine
from boxwood.interactions import DetectedInteractions, InteractionFacts, Interactions
from tests.data.formats.test_interactions import small

FACTS = InteractionFacts((1, 2, 3), ("cut", "walk", "see"), (("instr", "obj"), (), ("obj",)))


def field(known: list[bool], pairs: list[tuple[int, int, int]]) -> Interactions:
    return Interactions(torch.tensor(known), torch.tensor(pairs, dtype=torch.int64).view(-1, 3))


@given(st.data())
def test_selected_instances_keep_their_interactions(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    row = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(row, st.integers(0, 3), st.one_of(st.just(-1), row)), max_size=6))
    chosen = data.draw(st.lists(row, unique=True))
    names = list("abcde")[:count]
    whole = field([name in "ace" for name in names], pairs)
    part = whole[torch.tensor(chosen, dtype=torch.int64)]
    left = [names[row] for row in chosen]
    assert part.known.tolist() == [name in "ace" for name in left]
    named = [(left[h], action, None if o < 0 else left[o]) for h, action, o in part.pairs.tolist()]
    assert named == [
        (names[h], action, names[o] if o >= 0 and names[o] in left else None) for h, action, o in pairs if names[h] in left
    ]
    mask = torch.tensor([row in chosen for row in range(count)])
    assert torch.equal(whole[mask].pairs, whole[mask.nonzero()[:, 0]].pairs)


def test_joined_fields_point_to_their_own_rows() -> None:
    joined = Interactions.cat([field([True, False], [(0, 0, 1), (0, 2, -1)]), field([False], []), field([True], [(0, 1, 0)])])
    assert joined.pairs.tolist() == [[0, 0, 1], [0, 2, -1], [3, 1, 3]]
    assert joined.known.tolist() == [True, False, False, True]


def test_a_data_set_gives_the_field_and_a_batch_carries_it(tmp_path: Path) -> None:
    tree = small()
    tree["annotations"].insert(0, {**tree["annotations"][2], "id": 4, "image_id": 1, "iscrowd": 1})
    (tmp_path / "a.json").write_text(json.dumps(tree))
    for image in tree["images"]:
        Image.new("RGB", (8, 8)).save(tmp_path / image["file_name"])
    data = CocoConfig(annotations=str(tmp_path / "a.json"), images=str(tmp_path)).open()
    assert isinstance(data, CocoDataset) and data.categories.interactions is not None
    assert data.categories.interactions.names == ("kick-obj", "walk")
    sample = data[0]
    assert sample.fields["interactions"].pairs.tolist() == [[1, 0, 2], [1, 1, -1]]  # type: ignore[attr-defined]
    target = make_target(sample)
    (first, second) = PackedBatch.of(collate([sample, data[1]], [0, 1], with_targets=True)).unpack().targets or ()
    for of_first in (target, first):  # without the crowd region
        found = of_first.fields["interactions"]
        assert isinstance(found, Interactions)
        assert (found.known.tolist(), found.pairs.tolist()) == ([True, False], [[0, 0, 1], [0, 1, -1]])
    assert second.fields["interactions"].known.tolist() == [False]  # type: ignore[attr-defined]
    assert data.to_coco()["interactions"] == tree["interactions"]


def claims() -> DetectedInteractions:
    nothing = [0.0] * 8 + [-1.0]
    walks = [0.9, 0.0, 0.0, 0, 0, 0, 0, 0, -1.0]
    cuts = [0.8, 0.5, 0.2, 1, 2, 5, 8, 0.9, 1.0]
    values = torch.tensor([[cuts, nothing, walks, nothing], [nothing] * 4])
    return DetectedInteractions(values, FACTS, (10, 20), ("person", "knife"), 0.1)


def test_records_name_verbs_roles_and_objects() -> None:
    rows = claims().records(torch.zeros(2, 4), (20, 20))
    assert [record.keys() for record in rows] == [{"interactions"}, set()]
    assert [(c["verb"], c["role"], pytest.approx(c["score"]), c.get("object")) for c in rows[0]["interactions"]] == [
        ("cut", "agent", 0.8, None),
        ("walk", "agent", 0.9, None),
        ("cut", "instr", 0.5, {"bbox": [1, 2, 4, 6], "category_id": 20, "score": pytest.approx(0.9)}),
        ("cut", "instr", 0.2, None),
    ]


def test_objects_of_claims_are_mirrored_with_the_image() -> None:
    mirrored = claims().transformed(Affine.flip((20, 20))).values
    assert mirrored[0, 0, 3:7].tolist() == [15, 2, 19, 8]
    assert torch.equal(mirrored[0, 2], claims().values[0, 2])


def test_drawing_links_the_human_to_the_object_and_writes_the_verb() -> None:
    picture = Image.new("RGB", (200, 100), (90, 90, 90))
    found = DetectedInteractions(
        claims().values * torch.tensor([1, 1, 1, 20, 5, 20, 5, 1, 1.0]), FACTS, (10, 20), ("person", "knife")
    )
    found.draw(picture, 0, (150, 20, 190, 80), (230, 159, 0), 2)
    assert picture.getpixel((110, 38)) != (90, 90, 90)  # on the line from (170, 50) to (60, 25)
    before = picture.copy()
    found.draw(picture, 1, (0, 0, 5, 5), (230, 159, 0), 2)
    assert picture.tobytes() == before.tobytes()
