"""Damaged files end in points that are all finite, or in an error that names the file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bixt3d.config import Config, load_config
from bixt3d.datasets.acquire.archives import unpack
from bixt3d.datasets.cache import parse
from bixt3d.datasets.features import channel_count, check_features, name_of
from bixt3d.datasets.files import read_lines
from bixt3d.datasets.hdf5 import read_hdf5
from bixt3d.datasets.readers import read_cloud
from bixt3d.datasets.readers.text import lines_of, read_rows
from bixt3d.datasets.shapenetpart import read_shapenetpart
from bixt3d.datasets.split import Split
from bixt3d.training.checkpoint import load_checkpoint
from bixt3d.training.resume import load_state
from tests.border import files
from tests.border.settings import many

WORDS = (
    *(b"999999999999", b"-1", b"4294967295", b"nan", b"inf", b"1e999", b"1_0", b"0x1p3", b"\0", b"\xff" * 4),
    *(
        b"\n",
        b" ",
        b",",
        b"#",
        b"e",
        b"/",
        b"{",
        b"[",
        b"\xe9",
        b"\r\n",
        b"\x00\x00\x00\x80",
        b"\xff\xff\xff\x7f",
    ),
)
HDF5 = [files.hdf5(names=False), files.hdf5(names=False, compression="gzip", chunks=True)]
CHECKPOINT, STATE = files.checkpoint(), files.state()


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """A whole file that is cut, or in which up to four bytes are changed, words put in, or bytes lost."""
    content = bytearray(draw(st.sampled_from(contents)))
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    head = draw(st.booleans())  # half of the damage is near the beginning, where the counts are
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        at = draw(st.integers(0, max(0, min(len(content), 400 if head else len(content)) - 1)))
        how = draw(st.sampled_from(["cut", "flip", "word", "over", "lose"]))
        if how == "cut":
            del content[at:]
        elif how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how in ("word", "over"):
            word = draw(st.sampled_from(WORDS))
            content[at : at + (len(word) if how == "over" else 0)] = word
        elif how == "lose":
            del content[at : at + draw(st.integers(1, 20))]
    return bytes(content)


def read_or_refuse(read: Callable[[Path], Any], path: Path, *named: str) -> Any:
    """What was read, or None where the error names the file, or one of those words."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        assert any(word in str(error) for word in (path.name, *named)), error
        assert "MemoryError" not in str(error)
        return None


@pytest.mark.parametrize("suffix", files.SHAPES)
def test_shapes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"shape{suffix}"

    @many(90)
    @given(content=damaged(files.SHAPES[suffix]))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        points = read_or_refuse(lambda path: read_cloud(path, None, 32), path)
        if points is not None:
            assert points.dtype == np.float64 and points.ndim == 2 and points.shape[1] in (3, 6)
            assert len(points) > 0 and np.isfinite(points).all()

    check()


@pytest.mark.parametrize("suffix", files.FEATURED)
def test_features_of_shapes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"shape{suffix}"
    contents, features = files.FEATURED[suffix]
    channels = channel_count(features)
    for content in contents:
        path.write_bytes(content)
        assert read_cloud(path, features, 32).shape == (files.COUNT, channels)

    @many(90)
    @given(content=damaged(contents))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        points = read_or_refuse(lambda path: read_cloud(path, features, 32), path)
        if points is not None:
            assert points.dtype == np.float64 and points.ndim == 2 and points.shape[1] == channels
            assert len(points) > 0 and np.isfinite(points).all()
            check_features(torch.from_numpy(points), features, "a shape")

    check()


NAMES = st.sampled_from(
    ["normal", "color", "intensity", "height", "own", "own:3", "xyz", "color:4", "a b", "", "own:0"]
)


@many(150)
@given(
    features=st.lists(
        NAMES | st.text(max_size=6) | st.tuples(st.text(max_size=4), st.integers(-2, 5)), max_size=4
    ),
    channels=st.integers(3, 12),
    kind=st.sampled_from(["normal", "color", "other"]),
)
def test_names_of_features(features: list[Any], channels: int, kind: str) -> None:
    """Whatever is named ends in a split whose names tell each of its columns, or in an error."""
    points = np.random.default_rng(0).normal(size=(2, 5, channels))
    if kind == "color":
        points = np.abs(points) % 1
    elif kind == "normal":
        points[..., 3:6] /= np.linalg.norm(points[..., 3:6], axis=-1, keepdims=True) + (channels < 4)
    try:
        split = Split(points, [0, 0], ["a"], features=features)  # type: ignore[arg-type]
    except ValueError as error:
        assert "feature" in str(error)
        return
    assert channel_count(split.features) == channels == split.channels
    assert split.with_features(split.features) is split
    first = [name_of(feature) for feature in split.features][:1]
    assert split.with_features(first).points.shape[2] == channel_count(split.features[:1])


@pytest.mark.parametrize(
    "suffix", [".off", ".ply", ".stl", ".glb", ".pcd", ".npy", ".npz", ".gltf", ".las", ".laz", ".pts"]
)
def test_cut_shapes_are_whole_or_refused(suffix: str, tmp_path: Path) -> None:
    """Their headers say how much is to come. A text may end anywhere, and so may its last number."""
    path = tmp_path / f"shape{suffix}"
    for content in files.SHAPES[suffix]:
        path.write_bytes(content)
        whole = read_cloud(path, None, 32)
        last = len(content) - content.rstrip().rindex(b" ") if content.isascii() and b" " in content else 1
        for end in [*range(0, len(content) - last, 7), len(content) - last]:
            path.write_bytes(content[:end])
            points = read_or_refuse(lambda path: read_cloud(path, None, 32), path)
            assert points is None or np.array_equal(points, whole), end


@pytest.mark.parametrize("separator", [" ", ","])
def test_rows(separator: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"

    @many(90)
    @given(content=damaged([files.text(separator, 6)]))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        rows = read_or_refuse(lambda path: read_rows(path, 6, separator=separator.strip() or None), path)
        if rows is not None:
            filled = [line for line in lines_of(content) if line.strip()]
            assert rows.shape == (len(filled), 6) and np.isfinite(rows).all()

    check()


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"

    @many(60)
    @given(content=damaged([b"chair\ntable\nlamp\n"]))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        lines = read_or_refuse(read_lines, path)
        assert lines is None or (len(set(lines)) == len(lines) and all(line.strip() for line in lines))

    check()


def test_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "ply_data_train0.h5"

    @many(250)
    @given(content=damaged(HDF5))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read = read_or_refuse(lambda path: read_hdf5(path, 40), path)
        if read is not None:
            points, label, _, _ = read
            assert np.isfinite(points).all() and label.shape == (len(points),) and (label < 40).all()

    check()


def test_hdf5_whose_names_hold_the_library_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(files.hdf5())
    heap = content.index(b"GCOL") + 16
    content[heap : heap + 16] = bytes(16)  # an object without a size: the next one is itself
    path = tmp_path / "ply_data_train0.h5"
    path.write_bytes(content)
    monkeypatch.setattr("bixt3d.datasets.hdf5.SECONDS", 5)
    with pytest.raises(ValueError, match=r"ply_data_train0\.h5: its names cannot be read"):
        read_hdf5(path, 40)


@pytest.mark.parametrize("suffix", files.ARCHIVES)
def test_archives(suffix: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path / f"set{suffix}"

    @many(50)
    @given(content=damaged([files.ARCHIVES[suffix]]))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        into = tmp_path_factory.mktemp("into")
        read_or_refuse(lambda path: unpack(path, into, 1 << 20), path, str(into))

    check()


def test_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"

    @many(80)
    @given(content=damaged([CHECKPOINT]))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_or_refuse(lambda path: load_checkpoint(path, "cpu"), path)

    check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["dim", "depth", "num_heads", "num_latents", "num_classes", "in_dims", "coord_scale", "pool"]
)


def test_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"

    @many(80)
    @given(
        changes=st.dictionaries(
            st.sampled_from(["model", "classes", "preprocess", "format"]), JSON, max_size=2
        ),
        args=st.dictionaries(KEYS, JSON | st.integers(-2, 100), max_size=3),
    )
    def check(changes: dict[str, Any], args: dict[str, Any]) -> None:
        if "model" not in changes:
            changes = {**changes, "model": {"name": "bixt_ti_cls", "args": {"num_classes": 4, **args}}}
        path.write_bytes(files.checkpoint(**changes))
        read_or_refuse(lambda path: load_checkpoint(path, "cpu"), path)

    check()


def test_states(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"

    @many(150)
    @given(content=damaged([STATE]))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        read_or_refuse(load_state, path)

    check()


def test_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        @many(100)
        @given(
            content=damaged([files.CONFIG, b"optim:\n  lr: 1e-2\n  name: sgd\ntrain: {seed: 5, amp: true}\n"])
        )
        def check(content: bytes) -> None:
            path.write_bytes(content)
            config = read_or_refuse(load_config, path, "optim.", "data.", "model.", "train.", "augment.")
            assert config is None or isinstance(config, Config)

        check()


VALUES = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=12),
    st.lists(st.integers(), max_size=3),
)
SETTINGS = [
    *(
        "data.num_points",
        "data.order",
        "data.normals",
        "data.features",
        "data.divide",
        "augment.feature_dropout",
        "augment.shift",
        "augment.scale_low",
        "augment.mirror",
    ),
    *(
        "model.name",
        "model.args",
        "model.init_from",
        "optim.lr",
        "optim.min_lr",
        "optim.name",
        "optim.momentum",
    ),
    *("train.epochs", "train.batch_size", "train.seed", "train.amp", "train.ema_decay", "run.dir", "preset"),
    *("optim", "run", "nothing", "train.epoch"),
]


def test_values_of_settings(tmp_path: Path) -> None:
    """YAML takes JSON, but for numbers that are none."""
    path = tmp_path / "settings.yaml"

    @many(120)
    @given(key=st.sampled_from(SETTINGS), value=VALUES)
    def check(key: str, value: Any) -> None:
        section, _, name = key.partition(".")
        path.write_text(json.dumps({section: {name: value} if name else value}), encoding="utf-8")
        config = read_or_refuse(load_config, path, section)
        if config is not None:
            assert 1 <= config.data.num_points <= 10_000_000 and config.train.epochs >= 1
            assert 0 < config.optim.lr < np.inf and 0 <= config.train.seed < 1 << 63

    check()


def layout(root: Path, parts: bytes, listed: bytes, rows: bytes) -> Path:
    """A data set in ShapeNetPart's layout with these three files."""
    folder = root / "set"
    for name in ("one", "train_test_split"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "synsetoffset2category.txt").write_text("Mug\tone\n")
    (folder / "parts.json").write_bytes(parts)
    (folder / "train_test_split" / "shuffled_train_file_list.json").write_bytes(listed)
    (folder / "one" / "a.txt").write_bytes(rows)
    return folder


ROWS = "".join(f"{i} 0 {i % 3} 0 1 0 {i % 2}\n" for i in range(8)).encode()
PARTS, LISTED = b'{"Mug": {"body": 0, "handle": 1}}', b'["shape_data/one/a"]'


@pytest.mark.parametrize("which", [0, 1, 2])
def test_part_data(which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "bixt3d.datasets.shapenetpart.cached", lambda sources, key, build, folder: parse(build)
    )

    @many(70)
    @given(content=damaged([[PARTS, LISTED, ROWS][which]]))
    def check(content: bytes) -> None:
        contents = [content if i == which else whole for i, whole in enumerate((PARTS, LISTED, ROWS))]
        folder = layout(tmp_path, *contents)
        names = ("parts.json", "file_list.json", "a.txt")
        split = read_or_refuse(lambda folder: read_shapenetpart(folder, "train"), folder, *names)
        if split is not None:
            assert split.points.isfinite().all() and int(split.parts.max()) < split.num_parts

    check()


def test_one_large_shape_among_many_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid side by side they would take the large one's size each."""
    monkeypatch.setattr("bixt3d.datasets.shapenetpart.FREE", 28_000)
    folder = layout(tmp_path, PARTS, json.dumps([f"s/one/{i}" for i in range(300)]).encode(), ROWS)
    for number in range(300):
        (folder / "one" / f"{number}.txt").write_bytes(b"\n".join(ROWS.splitlines()[:2]))
    (folder / "one" / "7.txt").write_bytes(ROWS * 100)
    with pytest.raises(ValueError, match=r"7\.txt holds 800 points: .* ask for fewer by num_points"):
        read_shapenetpart(folder, "train")
    assert read_shapenetpart(folder, "train", 8).points.shape == (300, 8, 6)
