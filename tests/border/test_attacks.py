"""What comes from elsewhere is data: it executes nothing, leaves no folder, and becomes no page's script."""

from __future__ import annotations

import html.parser
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bixt3d import Predictor, load_model
from bixt3d.config import config_from, load_config
from bixt3d.datasets.acquire import archives
from bixt3d.datasets.acquire.archives import unpack
from bixt3d.datasets.hdf5 import read_hdf5
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.datasets.readers import read_cloud
from bixt3d.models import create_model
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import load_checkpoint
from bixt3d.training.resume import load_state, save_state
from bixt3d.visualize import LabelledCloud
from bixt3d.visualize.html import write_page
from tests.border import bombs, files
from tests.border.settings import many
from tests.training.tiny import NAIVE


class Payload:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_the_payload_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def _pickled(path: Path, payload: Any) -> None:
    path.write_bytes(pickle.dumps(payload))


def _saved(path: Path, payload: Any) -> None:
    torch.save({"model": {"w": torch.zeros(3)}, "epoch": payload}, path)


def _saved_the_old_way(path: Path, payload: Any) -> None:
    torch.save({"epoch": payload}, path, _use_new_zipfile_serialization=False)


def _scripted(path: Path, payload: Any) -> None:
    """A whole state whose pickle is exchanged for the payload."""
    save_state(path, {"epoch": 1})
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, pickle.dumps(payload) if name.endswith("data.pkl") else content)


WRITERS = [_pickled, _saved, _saved_the_old_way, _scripted]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "resume.pt"])
def test_a_pickle_under_a_checkpoints_name_is_refused(
    tmp_path: Path, write: Callable[[Path, Any], None], name: str
) -> None:
    trace, path = tmp_path / "executed", tmp_path / name
    write(path, Payload(trace))
    loaders: list[Callable[[Path], object]] = [
        load_model,
        lambda path: load_checkpoint(path, "cpu"),
        Predictor,
    ]
    for load in [load_state] if name == "resume.pt" else loaders:
        with pytest.raises(ValueError, match=name):
            load(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_pickled_array_is_refused(tmp_path: Path, suffix: str) -> None:
    trace, path = tmp_path / "executed", tmp_path / f"cloud{suffix}"
    array = np.array([[Payload(trace)] * 3] * 4, dtype=object)
    (np.save if suffix == ".npy" else np.savez)(path, array)
    with pytest.raises(ValueError, match=f"cloud{suffix}"):
        read_cloud(path)
    assert not trace.exists()


def test_a_description_with_weights_that_are_not_finite(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "m.safetensors"
    path.write_bytes(files.checkpoint())
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    state = load_file(path)
    for value in (torch.nan, torch.inf):
        state["head.linear.bias"][1] = value
        save_file(state, path, header)
        with pytest.raises(ValueError, match=r"m\.safetensors: head\.linear\.bias holds NaN or infinity"):
            load_checkpoint(path)


STORED = {"num_points": 8, "order": "fps", "stored_points": 9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": [1, 2, 3, 4]}, "whole description"),
        ({"classes": "abcd"}, "whole description"),
        (
            {"preprocess": {"num_points": True, "order": "fps", "stored_points": 9}},
            "damaged description: num_p",
        ),
        ({"preprocess": {"num_points": 0, "order": "fps", "stored_points": 9}}, "damaged description: num_p"),
        (
            {"preprocess": {"num_points": 8, "order": "best", "stored_points": 9}},
            "damaged description: order",
        ),
        ({"preprocess": {**STORED, "features": ["color", "color"]}}, "damaged description: features"),
        ({"preprocess": {**STORED, "features": "abc", "channels": 6}}, "damaged description: preprocess"),
        ({"preprocess": {**STORED, "features": [3]}}, "damaged description: features"),
        ({"preprocess": {**STORED, "features": 3}}, "damaged description: preprocess"),
        ({"model": {"name": "bixt_ti_cls", "args": {"name": "x"}}}, "cannot be built"),
        ({"model": {"name": "os.system", "args": {}}}, "cannot be built: unknown model 'os.system'"),
        ({"model": {"name": "bixt_ti_cls", "args": {**NAIVE, "num_heads": 0}}}, "cannot be built"),
    ],
)
def test_descriptions_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(files.checkpoint(**changes))
    with pytest.raises(ValueError, match=rf"m\.safetensors.*{message}"):
        load_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"part_names": ["a"]},
        {"part_names": [0, 1, 2, 3, 4]},
        {"parts_of_category": [[0, 1]]},
        {"parts_of_category": [[0, 1], [2, 9]]},
        {"parts_of_category": [[0, 1], [-1]]},
        {"parts_of_category": [[0, 1], []]},
    ],
)
def test_tables_of_parts_that_make_no_sense(changes: dict[str, Any]) -> None:
    model = create_model("bixt_ti_partseg", num_parts=5, num_categories=2, **NAIVE)
    about = {"classes": ["a", "b"], "parts_of_category": [[0, 1], [2, 3, 4]], **changes}
    built = {"name": "bixt_ti_partseg", "args": {"num_parts": 5, "num_categories": 2, **NAIVE}}
    model.description = Description(  # type: ignore[assignment]
        "part_segmentation", built, about, Preprocess(num_points=16)
    )
    with pytest.raises(ValueError, match="checkpoint: expected .*parts"):
        Predictor(model, "cpu")


def test_a_table_of_parts_that_makes_sense() -> None:
    """So that the test above refuses what it changes, and nothing else."""
    model = create_model("bixt_ti_partseg", num_parts=5, num_categories=2, **NAIVE)
    about = {"classes": ["a", "b"], "parts_of_category": [[0, 1], [2, 3, 4]], "part_names": list("abcde")}
    model.description = Description(  # type: ignore[assignment]
        "part_segmentation", {"name": "", "args": {}}, about, Preprocess(num_points=16)
    )
    assert Predictor(model, "cpu").part_names == tuple("abcde")


# Settings

TAGS = [
    "!!python/object/apply:os.system ['touch {trace}']",
    "!!python/object/new:os.system ['touch {trace}']",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!!python/object:collections.OrderedDict {{}}",
]
RESOLVERS = [
    "${oc.env:BIXT3D_SECRET}",
    "${oc.decode:${oc.env:BIXT3D_SECRET}}",
    "${data.root}",
    "a${oc.env:X}b",
]


@pytest.mark.parametrize("tag", TAGS)
def test_settings_execute_nothing(tmp_path: Path, tag: str) -> None:
    path, trace = tmp_path / "a.yaml", tmp_path / "executed"
    tag = tag.format(trace=trace)
    for text in (f"run: {{dir: {tag}}}", f"model: {{args: {{dim: {tag}}}}}", tag):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.yaml"):
            load_config(path)
    assert not trace.exists()


@pytest.mark.parametrize("value", RESOLVERS)
def test_settings_reach_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("BIXT3D_SECRET", "hunter2")
    path = tmp_path / "a.yaml"
    for text, key in (
        (f"run: {{dir: '{value}'}}", "run.dir"),
        (f"data: {{root: '{value}'}}", "data.root"),
        (f"model: {{args: {{pool: '{value}'}}}}", "model.args.pool"),
        (f"model: {{args: {{widths: ['{value}']}}}}", "model.args.widths"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"a\.yaml .*: {key}: expected a value") as caught:
            load_config(path)
        assert "hunter2" not in str(caught.value)
    path.write_text("")
    with pytest.raises(ValueError, match=r"run\.dir"):
        load_config(path, [f"run.dir={value}"])
    assert config_from({"run": {"dir": value}}).run.dir == value  # text, as any other


def test_settings_take_no_aliases(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: &d {root: x}\nrun: {dir: y}\naugment: *d\n")
    with pytest.raises(ValueError, match=r"a\.yaml is not valid YAML: \*d: aliases are not taken"):
        load_config(path)


# Archives


def _tar(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("first.txt"))
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        archive.addfile(entry)
    return file.getvalue()


def _zip_link(target: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("first.txt", "")
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, target)
    return file.getvalue()


NAMES = [
    "../out.txt",
    "a/../../out.txt",
    "/tmp/out.txt",
    "C:/out.txt",
    "c:out.txt",
    "..\\out.txt",
    "\\\\host\\x",
]
HOSTILE = {
    **{f"tar {name}": _tar(name) for name in NAMES},
    **{f"zip {name}": files.zipped({"first.txt": b"", name: b"x"}) for name in NAMES},
    "symlink out": _tar("link", tarfile.SYMTYPE, "../../etc/passwd"),
    "symlink inside": _tar("link", tarfile.SYMTYPE, "first.txt"),
    "hard link out": _tar("link", tarfile.LNKTYPE, "../../etc/passwd"),
    "hard link inside": _tar("link", tarfile.LNKTYPE, "first.txt"),
    "character device": _tar("device", tarfile.CHRTYPE),
    "block device": _tar("device", tarfile.BLKTYPE),
    "pipe": _tar("pipe", tarfile.FIFOTYPE),
    "symlink in a zip": _zip_link("/etc/passwd"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    (tmp_path / "set.bin").write_bytes(HOSTILE[kind])
    with pytest.raises(ValueError, match=r"set\.bin: refused"):
        unpack(tmp_path / "set.bin", into, 1 << 20)
    assert list(into.iterdir()) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "into", "set.bin"]


@pytest.mark.parametrize("suffix", files.ARCHIVES)
def test_truncated_archives(tmp_path: Path, suffix: str) -> None:
    content = files.ARCHIVES[suffix]
    for share in (0.0, 0.05, 0.1, 0.2) if suffix == ".tar" else (0.0, 0.05, 0.3, 0.6, 0.9):
        path, into = tmp_path / f"set{suffix}", tmp_path / f"into{share}"
        path.write_bytes(content[: int(share * len(content))])
        into.mkdir()
        with pytest.raises(ValueError, match=rf"set{suffix}"):
            unpack(path, into, 1 << 20)


@pytest.mark.parametrize("suffix", files.ARCHIVES)
def test_archives_larger_than_allowed(tmp_path: Path, suffix: str) -> None:
    """Packed a thousand times smaller; the limit is that of the data set."""
    zeros = {"set/zeros": bytes(3 << 20)}
    mode = "w:" + suffix.removeprefix(".tar").removeprefix(".")
    content = files.zipped(zeros) if suffix == ".zip" else files.tarred(zeros, mode)
    (tmp_path / "set").write_bytes(content)
    (tmp_path / "into").mkdir()
    with pytest.raises(ValueError, match=r"set: refused: unpacked it would be over 2 MB"):
        unpack(tmp_path / "set", tmp_path / "into", 2_000_000)
    assert list((tmp_path / "into").iterdir()) == []


def test_folders_count_as_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 20)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for number in range(30):
            entry = tarfile.TarInfo(f"folder{number}")
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
    (tmp_path / "set.tgz").write_bytes(file.getvalue())
    (tmp_path / "into").mkdir()
    with pytest.raises(ValueError, match=r"set\.tgz: refused: .* or 20 files"):
        unpack(tmp_path / "set.tgz", tmp_path / "into", 1 << 20)


# Files that name other files


@pytest.mark.parametrize("how", ["link", "raw", "virtual", "soft"])
def test_hdf5_arrays_in_other_files_are_not_read(tmp_path: Path, how: str) -> None:
    secret, path = tmp_path / "secret.h5", tmp_path / "ply_data_test0.h5"
    values = np.random.default_rng(0).normal(size=(4, 8, 3)).astype(np.float32)
    with h5py.File(secret, "w") as file:
        file["data"] = values
    (tmp_path / "secret.raw").write_bytes(values.tobytes())
    with h5py.File(path, "w") as file:
        file["label"] = np.zeros(4, np.uint8)
        if how == "link":
            file["data"] = h5py.ExternalLink(str(secret), "data")
        elif how == "soft":
            file["data"] = h5py.SoftLink("/label")
        elif how == "raw":
            raw = [(str(tmp_path / "secret.raw"), 0, values.nbytes)]
            file.create_dataset("data", values.shape, values.dtype, external=raw)
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(str(secret), "data", values.shape)
            file.create_virtual_dataset("data", layout)
    with pytest.raises(ValueError, match=r"ply_data_test0\.h5: data lies in another file"):
        read_hdf5(path, 40)


def test_a_glb_with_its_data_in_another_file(tmp_path: Path) -> None:
    tree, rest = bombs.glb_parts(files.mesh("glb"))
    (tmp_path / "secret.bin").write_bytes(rest[8:])
    tree["buffers"][0]["uri"] = "secret.bin"
    (tmp_path / "m.glb").write_bytes(bombs.glb(tree, b""))
    with pytest.raises(ValueError, match=r"m\.glb: .*in another file, 'secret\.bin', which is not read"):
        read_cloud(tmp_path / "m.glb")


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_materials_are_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    content = files.mesh(kind, **({"encoding": "ascii"} if kind == "ply" else {}))
    if kind == "obj":
        content = b"mtllib secret.mtl\n" + content
    else:
        content = content.replace(b"element", b"comment TextureFile secret.png\nelement", 1)
    for name in ("secret.mtl", "secret.png"):
        (tmp_path / name).write_text("newmtl a\n")
    path = tmp_path / f"m.{kind}"
    path.write_bytes(content)
    opened: list[str] = []
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda name, *a, **k: opened.append(str(name)) or real(name, *a, **k)
    )
    assert read_cloud(path, (), 50).shape == (50, 3)
    assert not [name for name in opened if "secret" in name]


# The page


class Tags(html.parser.HTMLParser):
    """The tags of a page with their attributes, and the text of its title and heading."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("title", "h1"):
            self.texts.setdefault(self.tags[-1][0], data)


def page_of(path: Path, name: str) -> Tags:
    """A page with names everywhere, and next to no plotly in it."""
    points = np.random.default_rng(0).normal(size=(5, 3))
    cloud = LabelledCloud(
        name, points, name, [0, 1], [name, f"{name}2"], np.zeros(5, int), np.ones(5, int), verdict=name
    )
    seen = Tags()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plotly.offline.get_plotlyjs", lambda: "0")
        write_page([cloud], path, title=name)
    seen.feed(path.read_text(encoding="utf-8"))
    return seen


EVIL = [
    "</script><script>evil()</script>",
    '"><img src=x onerror=evil()>',
    "' onload='evil()",
    "<!--",
    "&lt;b&gt;",
]


@many(40)
@given(
    name=st.one_of(st.sampled_from([*EVIL, "@data@", "@policy@", "]]>", "<svg/onload=evil()>"]), st.text())
)
def test_names_are_text_on_the_page(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("page")
    plain, seen = page_of(folder / "plain.html", "plain"), page_of(folder / "page.html", name)
    assert seen.tags == plain.tags
    if name.isprintable() and name.strip():
        assert seen.texts["h1"].strip() == name.strip()
