"""V-COCO and HICO-DET: read, written again, and what is wrong in them."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.data.annotations import format_of, read_annotations
from boxwood.data.coco_file import coco_file_of, read_coco_file
from boxwood.data.formats.convert import convert
from boxwood.data.formats.hico import read_hico, write_hico
from boxwood.data.formats.vcoco import read_vcoco, write_vcoco
from boxwood.errors import UserError
from tests.evaluation.interaction_cases import facts, hico_truth, vcoco_truth, write_hico_case, write_vcoco_case

# ---------------------------------------------------------------------------------------------------------------- V-COCO


def verb_sets(verbs: list[dict[str, Any]]) -> list[Any]:
    """What a V-COCO file says, whatever the order of its persons."""
    result = []
    for verb in verbs:
        count = len(verb["ann_id"])
        table = np.array(verb["role_object_id"], dtype=np.int64).reshape(len(verb["role_name"]), count).T.tolist()
        rows = zip(verb["image_id"], verb["ann_id"], verb["label"], map(tuple, table), strict=True)
        result.append((verb["action_name"], tuple(verb["role_name"]), verb["include"], set(rows)))
    return result


@pytest.mark.parametrize("case", ["main", "edge"])
def test_vcoco_there_and_back_by_the_command(tmp_path: Path, case: str) -> None:
    source, data = write_vcoco_case(tmp_path / "a", case), facts("vcoco")[case]
    done = convert(source, None, tmp_path / "coco.json", source_format="vcoco")
    assert (done.num_images, done.not_carried) == (len(data["ids"]), [])
    back = convert(tmp_path / "coco.json", "vcoco", tmp_path / "b", split="test")
    assert back.not_carried == []
    assert verb_sets(json.loads((tmp_path / "b/vcoco/vcoco_test.json").read_text())) == verb_sets(data["verbs"])
    assert (tmp_path / "b/splits/vcoco_test.ids").read_text().split() == [str(number) for number in data["ids"]]
    assert json.loads((tmp_path / "b/instances_vcoco_all_2014.json").read_text()) == data["instances"]


def test_what_vcoco_says_is_in_the_coco_file(tmp_path: Path) -> None:
    tree, data = vcoco_truth(tmp_path, "edge"), facts("vcoco")["edge"]
    known = {row["id"] for row in tree["annotations"] if row.get("verbs_known")}
    assert known == set(data["verbs"][0]["ann_id"])
    hold = next(row for row in tree["interactions"] if (row["verb_id"], row["human_id"]) == (1, 9001))
    place = data["verbs"][0]["ann_id"].index(9001)
    assert hold["targets"] == {"obj": data["verbs"][0]["role_object_id"][len(known) + place]}
    assert len(tree["interactions"]) == sum(sum(verb["label"]) for verb in data["verbs"])


@st.composite
def vcoco_files(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO file and V-COCO's list for it."""
    images = draw(st.lists(st.integers(1, 999), min_size=1, max_size=3, unique=True))
    rows = draw(st.lists(st.tuples(st.sampled_from(images), st.integers(1, 3)), min_size=1, max_size=8))
    ids = draw(st.lists(st.integers(1, 9999), min_size=len(rows), max_size=len(rows), unique=True))
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": [1.0, 2.0, 3.0, 4.0], "area": 12.0, "iscrowd": 0}
        for number, (image, category) in zip(ids, rows, strict=True)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(("person", "cat", "ball"), start=1)]
    tree = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "height": 9, "width": 9} for number in images],
        "annotations": annotations,
        "categories": categories,
    }
    persons = [row for row in annotations if row["category_id"] == 1 and draw(st.booleans())]
    verbs = []
    for name, roles in (("walk", []), ("throw", ["obj"]), ("cut", ["instr", "obj"])):
        labels = [draw(st.integers(0, 1)) for _ in persons]
        columns = [[row["id"] for row in persons]]
        for _ in roles:
            column = []
            for person, label in zip(persons, labels, strict=True):
                same = [0, *(row["id"] for row in annotations if row["image_id"] == person["image_id"])]
                column.append(draw(st.sampled_from(same)) if label else 0)
            columns.append(column)
        include = [[], *(draw(st.lists(st.sampled_from(["cat", "ball"]), unique=True)) for _ in roles)]
        verbs.append(
            {
                "action_name": name,
                "role_name": ["agent", *roles],
                "include": include,
                "image_id": [row["image_id"] for row in persons],
                "ann_id": columns[0],
                "label": labels,
                "role_object_id": [number for column in columns for number in column],
            }
        )
    return tree, verbs


@settings(max_examples=25, deadline=None)
@given(vcoco_files())
def test_any_vcoco_file_there_and_back(tmp_path_factory: pytest.TempPathFactory, files: tuple[Any, Any]) -> None:
    tree, verbs = files
    folder = tmp_path_factory.mktemp("vcoco")
    (folder / "i.json").write_text(json.dumps(tree))
    (folder / "v.json").write_text(json.dumps(verbs))
    (folder / "v.ids").write_text("\n".join(str(image["id"]) for image in tree["images"]))
    coco = read_vcoco(folder / "v.json", folder / "i.json").coco
    again = coco_file_of(coco, "x").to_coco()
    assert again["interactions"] == coco["interactions"] and again["verbs"] == coco["verbs"]
    assert write_vcoco(again, folder, "val") == []
    assert verb_sets(json.loads((folder / "vcoco/vcoco_val.json").read_text())) == verb_sets(verbs)
    instances = json.loads((folder / "instances_vcoco_all_2014.json").read_text())
    assert sorted(instances["annotations"], key=lambda row: row["id"]) == sorted(tree["annotations"], key=lambda row: row["id"])


def with_verb(key: str, value: Any) -> Callable[[Any], Any]:
    return lambda verbs: [{**verbs[0], key: value}, *verbs[1:]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda verbs: {"hold": verbs}, "is no file of V-COCO, which is a list of verbs"),
        (with_verb("label", None), "verb 0 'hold': 'label' must be a list"),
        (with_verb("role_name", ["obj"]), "verb 0 'hold': 'role_name' must be 'agent' and other names"),
        (with_verb("include", [[], ["unicorn"]]), "verb 0 'hold': 'include' names 'unicorn', which the COCO file lacks"),
        (with_verb("label", [1]), "verb 0 'hold': expected .* for .* persons"),
        (with_verb("label", ["x"]), "verb 0 'hold': 'label' must be whole numbers, got 'x'"),
        (lambda verbs: [verbs[0], {**verbs[1], "ann_id": verbs[1]["ann_id"][:1], "image_id": [1], "label": [0],
                                   "role_object_id": verbs[1]["ann_id"][:1]}], "verb 1 'stand': lists other persons than 'hold'"),
    ],
)  # fmt: skip
def test_wrong_vcoco_files(tmp_path: Path, change: Callable[[Any], Any], problem: str) -> None:
    source = write_vcoco_case(tmp_path, "edge")
    source.write_text(json.dumps(change(json.loads(source.read_text()))))
    with pytest.raises(UserError, match=problem) as error:
        read_vcoco(source)
    assert str(source) in str(error.value) and "\n" not in str(error.value)


def test_released_files_are_recognised_by_name_and_content(tmp_path: Path) -> None:
    source = write_vcoco_case(tmp_path, "edge")
    assert format_of(source) == "vcoco"
    (tmp_path / "vcoco_train.json").write_text(json.dumps(small()))
    assert format_of(tmp_path / "vcoco_train.json") == "coco"
    table = read_annotations(source).interactions
    assert table is not None and len(table.facts.actions) == 29


def test_vcoco_without_its_coco_file_or_with_that_of_other_images(tmp_path: Path) -> None:
    source = write_vcoco_case(tmp_path, "edge")
    instances = tmp_path / "instances_vcoco_all_2014.json"
    tree = json.loads(instances.read_text())
    instances.write_text(json.dumps({**tree, "annotations": tree["annotations"][5:]}))
    with pytest.raises(UserError, match=r"person 9001 of image id 1 is not in the COCO file"):
        read_vcoco(source)
    instances.unlink()
    with pytest.raises(UserError, match="name the COCO file of its images with --instances"):
        read_vcoco(source)


# -------------------------------------------------------------------------------------------------------------- HICO-DET


def mat_facts(value: Any) -> Any:
    """What a MATLAB file says, comparable."""
    if isinstance(value, dict):
        return {key: mat_facts(part) for key, part in value.items() if not key.startswith("__")}
    if isinstance(value, np.ndarray) and value.dtype != object:
        return [None if number != number else number for number in value.ravel().tolist()]
    if isinstance(value, list | np.ndarray):
        return [mat_facts(part) for part in value]
    return value


def by_name(content: Mapping[str, Any], split: str) -> dict[str, Any]:
    """The rows of bbox_train or bbox_test with their labels, by file name; connections as sets."""
    rows = content[f"bbox_{split}"]
    return {row["filename"]: mat_facts(row) for row in (rows if isinstance(rows, list | np.ndarray) else [rows])}


@pytest.mark.parametrize("case", ["main", "edge"])
def test_hico_there_and_back_by_the_command(tmp_path: Path, case: str) -> None:
    loadmat = pytest.importorskip("scipy.io").loadmat
    source = write_hico_case(tmp_path / "a", case)
    assert format_of(source) == "hico"
    done = convert(source, None, tmp_path / "coco.json")
    assert done.not_carried == []
    assert convert(tmp_path / "coco.json", "hico", tmp_path / "b").not_carried == []
    for name in ("anno.mat", "anno_bbox.mat"):
        old, new = (loadmat(tmp_path / folder / name, simplify_cells=True) for folder in ("a", "b"))
        assert mat_facts(old["list_action"]) == mat_facts(new["list_action"])
        for split in ("train", "test"):
            if name == "anno_bbox.mat":
                assert by_name(old, split) == by_name(new, split)
            else:
                names = [list(content[f"list_{split}"]) for content in (old, new)]
                assert names[0] == names[1]
                np.testing.assert_array_equal(old[f"anno_{split}"], new[f"anno_{split}"])


def test_hico_is_what_its_annotations_say(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    tree, expected = hico_truth(tmp_path, "main"), facts("hico")["main"]["annotations"]["test"]
    boxes = {row["id"]: row["bbox"] for row in tree["annotations"]}
    got = set()
    for row in tree["interactions"]:
        if row["human_id"] is not None:
            corners = [boxes[number] for number in (row["human_id"], row["targets"]["obj"])]
            inclusive = [(x + 1, y + 1, x + w, y + h) for x, y, w, h in corners]
            got.add((row["image_id"] - 1_000_000, row["hoi_id"], *inclusive))
    wanted = {
        (int(image["file_name"][-12:-4]), hoi["id"], tuple(hoi["human_boxes"][human]), tuple(hoi["object_boxes"][target]))
        for image in expected
        for hoi in image["hoi"]
        for human, target in hoi["pairs"]
    }
    assert got == wanted
    assert [image["hois"]["negative"] for image in tree["images"]] == [image["negative_hoi_ids"] for image in expected]
    assert sum(hoi["rare"] for hoi in tree["hois"]) == facts("hico")["main"]["expected"]["means"]["default"]["n_rare"]
    assert read_annotations(tmp_path / "main", split="train").interactions is not None


BOX = st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_hico_there_and_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    pytest.importorskip("scipy")
    draw = data.draw
    images, annotations, interactions = [], [], []
    hois = [(1, 18, "pet"), (2, 18, "walk"), (3, 1, "hug")]  # dog, dog, person
    for number in draw(st.lists(st.integers(1, 999), max_size=3, unique=True)):
        split = draw(st.sampled_from(["train", "test"]))
        image_id = number + (1_000_000 if split == "test" else 0)
        groups = []
        for group, hoi in enumerate(draw(st.lists(st.integers(1, 3), max_size=3))):
            invisible = draw(st.booleans())
            groups.append({"hoi_id": hoi, "invisible": int(invisible)})
            common = {"image_id": image_id, "verb_id": hoi, "hoi_id": hoi, "group": group}
            if invisible:
                hidden = {"human_id": None, "targets": {"obj": None}, "visible": False}
                interactions.append({"id": len(interactions) + 1, **common, **hidden})
                continue
            ids: list[list[int]] = []
            for category, known in ((1, {"verbs_known": True}), (hois[hoi - 1][1], {})):
                ids.append([])
                for x, y, w, h in draw(st.lists(BOX, min_size=1, max_size=3)):
                    row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "bbox": [x, y, w, h]}
                    annotations.append({**row, "area": w * h, "iscrowd": 0, "group": group, **known})
                    ids[-1].append(row["id"])
            pairs = draw(st.lists(st.tuples(st.sampled_from(ids[0]), st.sampled_from(ids[1])), max_size=4, unique=True))
            for human, target in pairs:
                seen = {"human_id": human, "targets": {"obj": target}}
                interactions.append({"id": len(interactions) + 1, **common, **seen})
        labels = draw(st.permutations([1, 2, 3]))
        cuts = sorted(draw(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))))
        kinds = [sorted(labels[a:b]) for a, b in zip((0, *cuts), cuts, strict=False)]
        named = dict(zip(("positive", "negative", "ambiguous"), kinds, strict=True))
        size = {"file_name": f"HICO_{split}2015_{number:08d}.jpg", "height": 99, "width": 98}
        images.append({"id": image_id, **size, "hois": {**named, "groups": groups, "depth": 3}})
    tree = {
        "images": sorted(images, key=lambda image: image["id"]),
        "annotations": sorted(annotations, key=lambda row: row["image_id"]),
        "categories": [{"id": 1, "name": "person", "hico_name": "person"}, {"id": 18, "name": "dog", "hico_name": "dog"}],
        "verbs": [
            {"id": n, "name": name, "roles": [{"name": "obj", "include": []}]} for n, name in enumerate(("hug", "pet", "walk"), 1)
        ],
        "interactions": interactions,
        "hois": [],
    }
    ids_of = {verb["name"]: verb["id"] for verb in tree["verbs"]}
    tree["hois"] = [{"id": n, "verb_id": ids_of[verb], "category_id": c, "fields": {}} for n, c, verb in hois]
    for row in interactions:
        row["verb_id"] = tree["hois"][row["hoi_id"] - 1]["verb_id"]
    folder = tmp_path_factory.mktemp("hico")
    assert write_hico(tree, folder) == []
    again = read_hico(folder).coco

    def comparable(coco: Mapping[str, Any]) -> Any:
        boxes = {row["id"]: (row["image_id"], row["group"], row["category_id"], *row["bbox"]) for row in coco["annotations"]}
        rows = [
            (row["image_id"], row["group"], row["hoi_id"], row.get("visible", True), boxes.get(row["human_id"]),
             boxes.get(row["targets"]["obj"]))
            for row in coco["interactions"]
        ]  # fmt: skip
        known = [row.get("verbs_known", False) for row in coco["annotations"]]
        return sorted(rows, key=str), sorted(zip(boxes.values(), known, strict=True)), sorted(coco["images"], key=lambda i: i["id"])

    assert comparable(again) == comparable(tree)
    assert [hoi["train_pairs"] for hoi in again["hois"]] == [
        sum(row["hoi_id"] == n and row["human_id"] is not None and row["image_id"] < 1_000_000 for row in interactions)
        for n in (1, 2, 3)
    ]


def test_wrong_hico_files(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    folder = write_hico_case(tmp_path, "edge")
    content = scipy_io.loadmat(folder / "anno.mat")
    with pytest.raises(UserError, match="has no part 'val'; choose train or test"):
        read_hico(folder, "val")

    def refused(change: dict[str, Any], problem: str) -> None:
        scipy_io.savemat(folder / "anno.mat", {**{k: v for k, v in content.items() if k[0] != "_"}, **change})
        with pytest.raises(UserError, match=problem) as error:
            read_hico(folder)
        assert "\n" not in str(error.value)

    refused({"list_action": content["list_action"][:, :0]}, "expected 'anno_train' of 0 x 16 numbers")
    refused({"list_test": content["list_test"][:-1]}, "expected 'anno_test' of 600 x 31 numbers")
    refused(
        {"anno_test": content["anno_test"][:, :-1], "list_test": content["list_test"][:-1]}, "one of anno.mat and anno_bbox.mat"
    )
    (folder / "anno.mat").write_bytes(b"no MATLAB file at all" * 20)
    with pytest.raises(UserError, match=r"anno\.mat: is no MATLAB file, or a damaged one"):
        read_hico(folder)
    with pytest.raises(UserError, match="need the classes of verb and object"):
        write_hico({"verbs": [], "categories": []}, tmp_path / "out")


HOIS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda tree: tree["images"][0].update(hois={}), "image id 1: lacks 'hois.groups'"),
    (lambda tree: tree["images"][0]["hois"].update(positive=[601]), "image id 1: 'hois' names the class 601 of 600"),
    (lambda tree: tree["images"][0]["hois"].update(negative=0.5), "image id 1: 'hois.negative' must list ids of classes, got 0.5"),
    (lambda tree: tree["images"][0]["hois"].update(depth=[3]), "image id 1: 'hois.depth' must be a number, got [3]"),
    (lambda tree: tree["annotations"][0].update(group=[0]), "image id 1: 'group' must be a whole number, got [0]"),
    (lambda tree: tree["hois"][0].update(fields=3), "'fields' of class 1 in 'hois' must be a mapping of names to texts"),
    (lambda tree: tree["hois"][0].update(fields={"a" * 40: "b"}), "anno.mat: MATLAB's format cannot hold this ("),
    (lambda tree: tree["images"][0]["hois"].update(groups=[]), "image id 1: has boxes of group 0 of 0"),
    (lambda tree: tree["hois"].reverse(), "the ids of 'hois' must be 1, 2, ..."),
    (lambda tree: tree["interactions"][0]["targets"].update(obj=10**6), "an interaction of group 0 has boxes of others"),
]


@pytest.mark.parametrize(("change", "problem"), HOIS, ids=[problem for _, problem in HOIS])
def test_what_cannot_be_written_as_hico_is_one_line(tmp_path: Path, change: Callable[[Any], Any], problem: str) -> None:
    pytest.importorskip("scipy")
    tree = read_hico(write_hico_case(tmp_path, "edge"), "train").coco
    change(tree)
    with pytest.raises(UserError, match=re.escape(problem)):
        write_hico(tree, tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------- COCO file


def small() -> dict[str, Any]:
    box = {"bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 8, "width": 8} for n in (1, 2)],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 1, **box, "verbs_known": True},
            {"id": 6, "image_id": 1, "category_id": 2, **box},
            {"id": 7, "image_id": 2, "category_id": 1, **box},
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "ball"}],
        "verbs": [
            {"id": 1, "name": "kick", "roles": [{"name": "obj", "include": [2]}]},
            {"id": 2, "name": "walk", "roles": []},
        ],
        "interactions": [
            {"id": 1, "image_id": 1, "human_id": 5, "verb_id": 1, "targets": {"obj": 6}},
            {"id": 2, "image_id": 1, "human_id": 5, "verb_id": 2, "targets": {}},
        ],
    }  # fmt: skip


def test_a_coco_file_with_interactions_is_read_in_parts_and_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(small()))
    assert read_coco_file(path).to_coco() == coco_file_of(small(), "x").to_coco() == small()


WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("interactions", 0, "human_id"), 6, "interactions row 0 .*'human_id' must be an annotation of image 1 that is a person"),
    (("interactions", 0, "human_id"), 7, "'human_id' must be an annotation of image 1"),
    (("interactions", 0, "human_id"), None, "'human_id' must be the id of a human, where visible is not false"),
    (("interactions", 0, "targets"), {"obj": 7}, "the target 7 is no annotation of image 1"),
    (("interactions", 0, "targets"), {"instr": 6}, "'targets' must be a mapping of the roles obj"),
    (("interactions", 0, "verb_id"), 9, "'verb_id' must be the id of a verb, got 9"),
    (
        ("interactions", 1),
        {"id": 3, "image_id": 1, "human_id": 5, "verb_id": 1, "targets": {}},
        "human 5 has the verb 1 in another row",
    ),
    (("interactions", 0, "hoi_id"), 4, "'hoi_id' must be the id of one of 'hois'"),
    (("verbs",), [], "'verbs' is empty"),
    (("verbs", 1, "name"), "kick", "verbs row 1 .*'name' must be another one than those before"),
    (("verbs", 1, "roles"), 3, "'roles' must be a list of at most 100 mappings"),
    (("verbs", 0, "roles"), [{"name": "obj", "include": [9]}], "'roles' must be roles whose 'include' lists ids of categories"),
    (("interactions",), {}, "'interactions' must be a list, got a dict"),
]


@pytest.mark.parametrize(("place", "value", "problem"), WRONG, ids=[problem[:40] for _, _, problem in WRONG])
def test_wrong_interactions_in_a_coco_file(tmp_path: Path, place: tuple[Any, ...], value: Any, problem: str) -> None:
    tree: Any = small()
    parent = tree
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    path = tmp_path / "a.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=problem) as error:
        read_coco_file(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_keys_that_a_coco_file_may_lack_are_not_needed_for_vcoco(tmp_path: Path) -> None:
    """No ``iscrowd``, no ``include``; and a box that is no number is written as it is."""
    tree = small()
    tree["annotations"] = [{k: v for k, v in row.items() if k != "iscrowd"} for row in tree["annotations"]]
    tree["annotations"][2]["bbox"] = [float("nan"), 0, 4, 4]
    del tree["verbs"][0]["roles"][0]["include"]
    (tmp_path / "a.json").write_text(json.dumps(tree))
    assert convert(tmp_path / "a.json", "vcoco", tmp_path / "out").num_instances == 3
    assert len(json.loads((tmp_path / "out/instances_vcoco_all_2014.json").read_text())["annotations"]) == 3
    verbs = json.loads((tmp_path / "out/vcoco/vcoco_train.json").read_text())
    assert [(verb["action_name"], verb["include"], verb["role_object_id"]) for verb in verbs] == [
        ("kick", [[], []], [5, 6]),
        ("walk", [[]], [5]),
    ]


def test_annotations_without_an_id_are_no_images_of_vcoco(tmp_path: Path) -> None:
    source = write_vcoco_case(tmp_path, "edge")
    path = tmp_path / "instances_vcoco_all_2014.json"
    tree = json.loads(path.read_text())
    del tree["annotations"][-1]["id"]
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="an annotation has no 'id', by which V-COCO's files name it"):
        read_vcoco(source)


def test_interactions_are_counted_where_a_format_lacks_them(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(small()))
    for form in ("voc", "yolo"):
        assert "2 interactions" in convert(tmp_path / "a.json", form, tmp_path / form).not_carried
    (tmp_path / "b.json").write_text(json.dumps({key: small()[key] for key in ("images", "annotations", "categories")}))
    with pytest.raises(UserError, match="has no human-object interactions"):
        convert(tmp_path / "b.json", "vcoco", tmp_path / "out")
