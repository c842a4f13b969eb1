"""Configurations: valid ones round-trip through every notation; each mistake is reported in one line."""

from __future__ import annotations

import math
import textwrap
from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from boxwood import safe_yaml
from boxwood.config import (
    Component,
    Config,
    ConfigError,
    apply_overrides,
    differences,
    from_tree,
    from_yaml,
    overlay,
    read_yaml,
    to_tree,
    to_yaml,
)
from boxwood.errors import UserError


class Backbone(Component):
    frozen: int = 2

    @abstractmethod
    def build(self) -> str: ...


class ResNet(Backbone):
    short_kind: ClassVar[str] = "resnet"
    depth: Literal[18, 50] = 50

    def build(self) -> str:
        return f"resnet{self.depth}"


class MobileNet(Backbone):
    short_kind: ClassVar[str] = "mobilenet_v2"
    width: float = 1.0

    def build(self) -> str:
        return "mobilenet"


class UserBackbone(Backbone):
    size: int | str = 1

    def build(self) -> str:
        return "user"


class Flip(Component):
    short_kind: ClassVar[str] = "flip"
    p: float = Field(0.5, ge=0, le=1)


class Named(Component):
    short_kind: ClassVar[str] = "named"
    name: Annotated[str, Field(max_length=50)] = "x"
    size: int = 1


class Mask(Config):
    convs: int = 4


class Model(Config):
    backbone: Backbone = Field(default_factory=ResNet)
    mask: Mask | None = None


class Optim(Config):
    kind: Literal["sgd", "adamw"] = "sgd"  # a plain field named kind
    lr: float = Field(0.02, gt=0)
    drops: tuple[float, ...] = (0.66, 0.9)


class Part(Config):
    folder: str = "photos"
    transforms: tuple[Component, ...] = (Flip(),)
    weights: str | None = None
    proposals: str | tuple[str, ...] | None = None
    digit: Literal["1", "one"] = "one"


class Run(Config):
    model: Model = Field(default_factory=Model)
    optim: Optim = Field(default_factory=Optim)
    data: Part = Field(default_factory=Part)
    sizes: tuple[tuple[float, ...], ...] = ((32,), (64, 128))


USER_KIND = f"{__name__}:UserBackbone"


def problems(*overrides: str) -> list[str]:
    """The problems that `apply_overrides` reports."""
    with pytest.raises(ConfigError) as caught:
        apply_overrides(Run(), overrides)
    assert all("\n" not in problem for problem in caught.value.problems)
    return list(caught.value.problems)


# --------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.lr=1e-3", 1e-3),
        ("optim.lr=1", 1.0),
        ("optim.lr=.5", 0.5),
        ("optim.drops=[1, 2.5]", (1.0, 2.5)),
        ("optim.drops=[]", ()),
        ("model.backbone.frozen=010", 10),
        ("model.backbone.frozen=1_000", 1000),
        ("model.backbone.frozen=-1", -1),
        ("optim.drops.1=0.8", (0.66, 0.8)),
        ("sizes.1.0=5", ((32.0,), (5.0, 128.0))),
        ("data.folder=2017", "2017"),
        ("data.folder=2017-01-01", "2017-01-01"),
        ("data.folder=no", "no"),
        ("data.folder=true", "true"),
        ("data.folder=ünï/写真 a=b", "ünï/写真 a=b"),
        ("data.folder=null", "null"),
        ("data.folder=", ""),
        ("data.weights=5", "5"),
        ("data.weights=~", "~"),
        ("data.proposals=null", None),
        ("data.proposals=a #2, b", "a #2, b"),
        ("data.proposals=['a #2', b]", ("a #2", "b")),
        ("data.proposals=x[1].json", "x[1].json"),
        ("data.proposals={a}", "{a}"),
        ("data.digit=1", "1"),
        ("data.digit='one'", "one"),
        ("data.weights=a.safetensors", "a.safetensors"),
        ("data.weights=null", None),
        ("data.transforms.0.p=0", 0.0),
        ("model.mask={}", Mask()),
        ("model.mask={convs: 2}", Mask(convs=2)),
        ("model.mask={convs: 3}", Mask(convs=3)),
        ("model.backbone.kind=mobilenet_v2", MobileNet()),
        ("model.backbone={kind: mobilenet_v2, width: 2}", MobileNet(width=2)),
        ("model.backbone={frozen: 0}", ResNet(frozen=0)),
        (f"model.backbone.kind={USER_KIND}", UserBackbone()),
        ("data.transforms=[]", ()),
        ("data.transforms=[{kind: flip, p: 1}, {kind: flip}]", (Flip(p=1), Flip())),
    ],
)
def test_an_override_sets_only_its_key(override: str, value: object) -> None:
    changed = apply_overrides(Run(), [override])
    node: Any = changed
    for key in override.partition("=")[0].removesuffix(".kind").split("."):
        if node == value and type(node) is type(value):
            break  # the value is a whole tuple or component
        node = node[int(key)] if key.isdigit() else getattr(node, key)
    assert node == value
    assert type(node) is type(value)
    top = {key.split(".")[0] for key, _, _ in differences(Run(), changed)}
    assert top <= {override.split(".")[0].partition("=")[0]}


def test_a_kind_and_its_keys_in_one_call_in_any_order() -> None:
    for overrides in (
        ["model.backbone.kind=mobilenet_v2", "model.backbone.width=2"],
        ["model.backbone.width=2", "model.backbone.kind=mobilenet_v2"],
    ):
        assert apply_overrides(Run(), overrides).model.backbone == MobileNet(width=2)
    both = apply_overrides(Run(), ["model.mask.convs=7", "model.mask={convs: 2}"])
    assert both.model.mask == Mask(convs=7), "the longer key applies last"


def test_setting_the_present_kind_keeps_its_settings() -> None:
    run = Run(model=Model(backbone=ResNet(depth=18)))
    assert apply_overrides(run, ["model.backbone.kind=resnet"]).model.backbone == ResNet(depth=18)


def test_a_plain_field_named_kind_resets_nothing() -> None:
    assert apply_overrides(Run(optim=Optim(lr=0.5)), ["optim.kind=adamw"]).optim == Optim(kind="adamw", lr=0.5)


def test_the_original_is_not_changed() -> None:
    run = Run()
    apply_overrides(run, ["optim.lr=1", "data.transforms.0.p=0", "model.backbone.kind=mobilenet_v2"])
    assert run == Run()


def test_all_mistakes_are_reported_at_once_with_the_nearest_keys() -> None:
    lines = problems(
        "optim.rl=1",
        "optim.lr=fast",
        "lr=1",
        "model.backbone.detph=18",
        "model.mask.conv=1",
        "data.transforms.0.pp=1",
        "data.transforms.7.p=1",
        "data.transforms.0.p=2",
        "modle.backbone.depth=18",
        "nonsense",
        "=1",
        "optim.drops=[a]",
    )
    assert len(lines) == 12
    text = "\n".join(lines)
    assert "unknown key 'optim.rl' (did you mean 'optim.lr'?)" in text
    assert "'optim.lr' should be a valid number, got 'fast'" in text
    assert "unknown key 'lr' (did you mean 'optim.lr'?)" in text
    assert "unknown key 'model.backbone.detph' (did you mean 'model.backbone.depth'?)" in text
    assert "unknown key 'model.mask.conv' (did you mean 'model.mask.convs'?)" in text
    assert "unknown key 'data.transforms.0.pp' (did you mean 'data.transforms.0.p'?)" in text
    assert "unknown key 'data.transforms.7': 'data.transforms' is a list of 1, counted from 0" in text
    assert "'data.transforms.0.p' should be less than or equal to 1, got 2" in text
    assert "unknown key 'modle' (did you mean 'model'?)" in text
    assert "'nonsense' is not key=value" in text
    assert "'=1' is not key=value" in text
    assert "'optim.drops.0' should be a valid number, got 'a'" in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.backbone.kind=resent", "'model.backbone' has an unknown kind 'resent' (did you mean 'resnet'?)"),
        (
            "model.backbone.kind=my:Backbone",
            "'model.backbone' has an unknown kind 'my:Backbone'; import its module first (--import my)",
        ),
        ("model.backbone.kind=null", "'model.backbone' needs its kind (known: "),
        ("model.backbone.kind=[1]", "'model.backbone' has an unknown kind [1] (known: "),
        ("model.backbone=3", "'model.backbone' should be a mapping of keys to values, got 3"),
        ("model.backbone=null", "'model.backbone' should be a mapping of keys to values, got None"),
        ("model=resnet", "'model' should be a mapping of keys to values, got 'resnet'"),
        ("optim.lr=true", "'optim.lr' should be a valid number, got True"),
        ("optim.lr=-1", "'optim.lr' should be greater than 0, got -1"),
        ("optim.lr=.nan", "'optim.lr' should be greater than 0, got nan"),
        ("optim.lr.x=1", "'optim.lr' should be a valid number, got a mapping"),
        ("optim.kind=sgdd", "'optim.kind' should be 'sgd' or 'adamw', got 'sgdd'"),
        ("optim.drops=1", "'optim.drops' should be a list, got 1"),
        ("model.backbone.frozen=1.5", "'model.backbone.frozen' should be a valid integer, got 1.5"),
        ("model.backbone.frozen=0x10", "'model.backbone.frozen' should be a valid integer, got '0x10'"),
        ("model.backbone.frozen=" + "9" * 5000, "'model.backbone.frozen' should be a valid integer"),
        (
            "data.proposals=[a #2, b]",
            "'data.proposals=[a #2, b]': the value would be cut at '#2, b]', which is a comment in YAML; put",
        ),
        ("data.proposals=[a]b", "'data.proposals=[a]b': the value is not valid YAML ("),
        ("data={folder: a #2\n}", "'data={folder: a #2\\n}': the value would be cut at '#2\\n}'"),
        ("data={folder: a\n#2\n, weights: b}", "'data={folder: a\\n#2\\n, weights: b}': the value would be cut at '#2"),
        ("data={folder: a #2}", "'data={folder: a #2}': the value would be cut at '#2}'"),
        ("optim.lr=1 # low", "'optim.lr=1 # low': the value would be cut at '# low'"),
        ("optim.lr=#1", "'optim.lr=#1': the value would be cut at '#1'"),
        ("optim.lr=1#2", "'optim.lr' should be a valid number, got '1#2'"),
        ("optim.kind=sgd # plain", "'optim.kind=sgd # plain': the value would be cut at '# plain'"),
        ("model.backbone.kind=resnet # 50", "'model.backbone.kind=resnet # 50': the value would be cut at '# 50'"),
        ("optim.drops=[1] #" + "x" * 200, "'optim.drops=[1] #xxx"),
        ("optim.lr={", "'optim.lr={': the value is not valid YAML ("),
        ("optim..lr=1", "unknown key 'optim.' (did you mean 'optim.lr'?)"),
        ("optim.drops.x=1", "unknown key 'optim.drops.x': 'optim.drops' is a list of 2, counted from 0"),
        ("optim.drops.²=1", "unknown key 'optim.drops.²': 'optim.drops' is a list of 2, counted from 0"),
    ],
)
def test_a_mistake_is_one_line(override: str, message: str) -> None:
    (problem,) = problems(override)
    assert problem.startswith(message)


def test_both_alternatives_of_a_union_are_named() -> None:
    (problem,) = problems(f"model.backbone.kind={USER_KIND}", "model.backbone.size=1.5")
    assert problem == "'model.backbone.size' should be a valid integer, got 1.5; or it should be text"


def test_long_values_are_shortened() -> None:
    (problem,) = problems("optim.lr=" + "x" * 10_000)
    assert len(problem) < 200


# ------------------------------------------------------------------------------------------------------- Python


def test_a_misspelt_attribute_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(AttributeError, match=r"Optim has no key 'rl' \(did you mean 'lr'\?\)"):
        Optim().rl = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rl": 1}, "Optim: unknown key 'rl' (did you mean 'lr'?)"),
        ({"lr": "x"}, "Optim: 'lr' should be a valid number, got 'x'"),
        ({"lr": 0, "drops": "a"}, "Optim: 'lr' should be greater than 0, got 0; Optim: 'drops' should be a list, got 'a'"),
    ],
)
def test_a_wrong_constructor_call_is_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Optim(**values)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_assignment_is_checked_and_lists_become_tuples() -> None:
    run = Run()
    run.optim.drops = [0.5, 1]  # type: ignore[assignment]
    assert run.optim.drops == (0.5, 1.0)
    run.optim.lr = 1
    assert isinstance(run.optim.lr, float)
    run.model.backbone = MobileNet()
    assert run.model.backbone.build() == "mobilenet"
    with pytest.raises(ConfigError, match="Optim: 'lr' should be a valid number, got 'x'"):
        run.optim.lr = "x"  # type: ignore[assignment]
    assert run.optim.lr == 1, "a refused value leaves the old one"
    with pytest.raises(ConfigError, match="'backbone' should be a mapping"):
        run.model.backbone = Optim()  # type: ignore[assignment]


def test_an_abstract_component_needs_its_kind() -> None:
    assert "resnet" in Backbone.kinds()
    assert all(kind != Backbone.kind() for kind in Backbone.kinds())
    with pytest.raises(ConfigError, match="needs its kind"):
        from_tree(Run, {"model": {"backbone": {"frozen": 1}}})


# --------------------------------------------------------------------------------------------------------- YAML


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(textwrap.dedent(text).encode() if isinstance(text, str) else text)
    return path


def test_a_yaml_mistake_names_file_line_and_nearest_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        # a comment
        optim:
          rl: 0.1
          lr: quick
        data:
          transforms:
          - {kind: flip, p: 0.5}
          - kind: flip
            p: much
        model:
          backbone:
            kind: resnet
            detph: 18
        """,
    )
    tree, lines = read_yaml(path)
    with pytest.raises(ConfigError) as caught:
        overlay(Run(), tree, str(path), lines)
    assert sorted(caught.value.problems) == sorted(
        [
            f"{path}:3: unknown key 'optim.rl' (did you mean 'optim.lr'?)",
            f"{path}:4: 'optim.lr' should be a valid number, got 'quick'",
            f"{path}:9: 'data.transforms.1.p' should be a valid number, got 'much'",
            f"{path}:13: unknown key 'model.backbone.detph' (did you mean 'model.backbone.depth'?)",
        ]
    )


def test_yaml_over_a_base(tmp_path: Path) -> None:
    tree, _ = read_yaml(write(tmp_path, "optim: {lr: 1e-1}\nmodel:\n  backbone: {kind: mobilenet_v2}\n  mask: {}\n"))
    run = overlay(Run(optim=Optim(lr=5, drops=(0.1,))), tree)
    assert run.optim == Optim(lr=0.1, drops=(0.1,))
    assert run.model == Model(backbone=MobileNet(), mask=Mask())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a configuration is a mapping of keys to values, got nothing"),
        ("- 1\n", "a configuration is a mapping of keys to values, got list"),
        ("just words", "a configuration is a mapping of keys to values, got str"),
        ("a: [1", "is not valid YAML"),
        ("a: b: c", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "is not valid YAML"),
        (
            "a: !!python/object/apply:os.system [echo hacked]",
            "is not valid YAML (the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !!python/name:os.system x", "is not valid YAML (the tag"),
        ("a: !mine 1", "is not valid YAML (the tag"),
        ("a: &x [1]\nb: *x\n", "is not valid YAML (aliases such as *name are not accepted, line 2)"),
        ("? [1, 2]\n: 3\n", "is not valid YAML"),
        ("a: 1\na: 2\n", "the key 'a' stands twice; keep one"),
        ("a:\n  b: 1\n  b: 1\n", "the key 'a.b' stands twice; keep one"),
        ("a: " + "[" * 5000, "is not valid YAML (nested more than 30 deep)"),
        ("a: " + "{b: " * 5000, "is not valid YAML (nested more than 30 deep)"),
        ("a: \x00", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"a: 1\n" * 2_000_000, "is larger than 100000 bytes, so it is no configuration"),
    ],
)
def test_hostile_yaml_is_refused_in_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_yaml(write(tmp_path, text))
    assert message in str(caught.value)
    assert str(tmp_path / "run.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    with pytest.raises(UserError, match="aliases"):
        read_yaml(write(tmp_path, bomb))


def test_keys_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    tree, lines = read_yaml(write(tmp_path, '"a\\nb": 1\n2: 3\n'))
    with pytest.raises(ConfigError) as caught:
        from_tree(Run, tree, "run.yaml", lines)
    assert len(caught.value.problems) == 2
    assert all("\n" not in problem for problem in caught.value.problems)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        read_yaml(tmp_path)


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20) | st.sampled_from(
    [
        "1e-3",
        "null",
        "~",
        "no",
        "0x10",
        "1_000",
        "010",
        "1:30",
        "2017-01-01",
        ".inf",
        "- a",
        "a: b",
        "#c",
        "&a",
        "*a",
        "!!x",
        " ",
        "",
        "'",
        "a\nb",
        "\t",
    ]
)
NUMBERS = st.floats(allow_nan=False, min_value=1e-300, width=64)


@given(
    lr=NUMBERS,
    drops=st.lists(st.floats(allow_nan=False)),
    folder=TEXT,
    weights=st.none() | TEXT,
    depth=st.sampled_from([18, 50]),
    mask=st.booleans(),
)
def test_round_trip_through_yaml(lr: float, drops: list[float], folder: str, weights: str | None, depth: int, mask: bool) -> None:
    run = Run(
        model=Model(backbone=ResNet(depth=depth), mask=Mask() if mask else None),  # type: ignore[arg-type]  # 18 or 50
        optim=Optim(lr=lr, drops=tuple(drops)),
        data=Part(folder=folder, weights=weights, transforms=(Flip(p=0), Flip())),
    )
    text = to_yaml(run)
    assert from_yaml(Run, text) == run
    assert differences(from_yaml(Run, text), run) == []
    if "_" not in folder + (weights or "") and all(math.isfinite(number) for number in (lr, *drops)):
        assert yaml.safe_load(text)["data"]["folder"] == folder, "other readers of YAML see the same text"


NAMES = TEXT | st.text(st.sampled_from("a1 #:'\"\\\\[]{},&*!|>%@`=\t\n-~"), max_size=12)


@given(text=NAMES)
def test_an_override_takes_text_as_it_is_written(text: str) -> None:
    base = Run(data=Part(proposals=("x", "y"), transforms=(Named(),)))
    overrides = [f"data.folder={text}", f"data.weights={text}", f"data.proposals.1={text}", f"data.transforms.0.name={text}"]
    data = apply_overrides(base, overrides).data
    expected = Part(folder=text, weights=None if text == "null" else text, proposals=("x", text), transforms=(Named(name=text),))
    assert data == expected
    if not text.startswith("["):
        several = apply_overrides(base, [f"data.proposals={text}"]).data.proposals
        assert several == (None if text == "null" else text)


def test_the_kind_that_another_override_chooses_says_which_values_are_text() -> None:
    for kind in ("data.transforms=[{kind: named}]", "data={transforms: [{kind: named}]}"):
        overrides = ["data.transforms.0.name=1e3 #2", kind]
        assert apply_overrides(Run(), overrides).data.transforms == (Named(name="1e3 #2"),)
    overrides = ["data.transforms.0.name=no #2", "data.transforms.0.kind=named", "data.transforms.0.size= 5"]
    assert apply_overrides(Run(), overrides).data.transforms == (Named(name="no #2", size=5),)


@given(texts=st.lists(NAMES), more=st.dictionaries(NAMES, NAMES))
def test_quoted_text_in_yaml_is_no_comment(texts: list[str], more: dict[str, str]) -> None:
    tree = {"texts": texts, "more": more}
    assert safe_yaml.parse(safe_yaml.dump(tree)) == tree


def test_yaml_fits_on_a_screen() -> None:
    assert to_yaml(Run()).splitlines() == [
        "model:",
        "  backbone: {kind: resnet, frozen: 2, depth: 50}",
        "  mask: null",
        "optim:",
        "  kind: sgd",
        "  lr: 0.02",
        "  drops: [0.66, 0.9]",
        "data:",
        "  folder: photos",
        "  transforms:",
        "  - {kind: flip, p: 0.5}",
        "  weights: null",
        "  proposals: null",
        "  digit: one",
        "sizes:",
        "- [32.0]",
        "- [64.0, 128.0]",
    ]


def test_differences_of_components_and_tuples() -> None:
    a, b = Run(), Run(model=Model(backbone=MobileNet(), mask=Mask()), data=Part(transforms=(Flip(p=1), Flip())))
    assert differences(a, b) == [
        ("model.backbone.kind", "resnet", "mobilenet_v2"),
        ("model.backbone.depth", 50, None),
        ("model.backbone.width", None, 1.0),
        ("model.mask", None, {"convs": 4}),
        ("data.transforms.0.p", 0.5, 1.0),
        ("data.transforms.1", None, {"kind": "flip", "p": 0.5}),
    ]
    assert differences(a, Run()) == []


def test_the_schema_knows_each_kind() -> None:
    schema = Run.model_json_schema()
    backbones = {backbone["properties"]["kind"]["const"]: backbone for backbone in schema["$defs"]["Backbone"]["anyOf"]}
    assert set(backbones) == {"resnet", "mobilenet_v2", USER_KIND}
    assert set(backbones["resnet"]["properties"]) == {"kind", "frozen", "depth"}
    assert backbones["resnet"]["additionalProperties"] is False


def test_to_tree_is_plain_data() -> None:
    tree = to_tree(Run())
    assert tree["model"]["backbone"] == {"kind": "resnet", "frozen": 2, "depth": 50}
    assert tree["data"]["transforms"] == [{"kind": "flip", "p": 0.5}]
