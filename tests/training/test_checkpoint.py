from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import bixt3d
from bixt3d.datasets import Preprocess
from bixt3d.models import create_model
from bixt3d.models.factory import task_of
from bixt3d.tasks import Description
from bixt3d.training.checkpoint import find_checkpoint, load_checkpoint, load_model, save_model
from bixt3d.training.resume import load_state, save_state
from tests.training.tiny import HIERARCHY, NAIVE, assert_same, awaken, contents, weights

PREPROCESS = {"num_points": 24, "order": "stored", "stored_points": 100}
META = {
    "model": {"name": "bixt_ti_cls", "args": {"num_classes": 4, **NAIVE}},
    "classes": ["é", "b", "c", "d"],
    "preprocess": PREPROCESS,
}


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return awaken(create_model("bixt_ti_cls", num_classes=4, **NAIVE))


@pytest.mark.parametrize("name", bixt3d.list_models())
def test_file_rebuilds_its_model_by_itself(name: str, tmp_path: Path) -> None:
    args: dict[str, Any] = {"dim": 12, "num_heads": 2, "num_latents": 4, "in_dims": 6}
    told: tuple[torch.Tensor, ...] = ()
    if task_of(name) == "part_segmentation":
        args |= {"num_parts": 5, "num_categories": 3}
        told = (torch.tensor([2, 0]),)
    else:
        args |= {"num_classes": 3}
    if "encdec" in name:
        args |= {"widths": [8, 12], "reductions": [2, 2], "neighbors": 6, "decoder_widths": [12, 8]}
    elif "hierarchy" in name:
        args |= HIERARCHY
    elif name.endswith("_local"):
        args |= {"widths": [8, 12], "reductions": [1, 2], "depths": [1, 2], "neighbors": 6}
        args |= {"decoder_widths": [12, 8]} if "partseg" in name else {}
    elif "perceiver" in name:
        args |= {"num_blocks": 2, "self_attends_per_block": 1}
    else:
        args |= {"depth": 2}
    if "grouping" in name:
        args |= {"neighbors": 6, "group_layers": [0]}
    model = awaken(create_model(name, **args))
    meta = {
        **META,
        "model": {"name": name, "args": args},
        "classes": ["a", "b", "ü"],
        "metrics": {"epoch": 3},
    }
    save_model(tmp_path / "model.safetensors", model, meta)
    torch.manual_seed(4)
    loaded, read = load_checkpoint(tmp_path / "model.safetensors", "cpu")
    assert read == {"format": 1, **meta}
    assert type(loaded) is type(model) and not loaded.training
    assert_same(loaded.state_dict(), model.state_dict())
    points = torch.rand(2, 32, 32, 6) if "image" in name else torch.rand(2, 24, 6)
    with torch.no_grad():
        assert torch.equal(loaded(points, *told), model(points, *told))
        assert loaded(points, *told).std() > 0


def test_load_model_is_public_and_returns_the_model(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", tiny(), META)
    assert bixt3d.load_model is load_model
    assert_same(load_model(tmp_path / "m", "cpu").state_dict(), tiny().state_dict())


def test_half_precision_weights_and_statistics_come_back(tmp_path: Path) -> None:
    model = create_model("bixt_ti_cls_hierarchy", num_classes=4, **HIERARCHY).train()
    model(torch.rand(4, 32, 3))  # moves BatchNorm's statistics
    meta = {**META, "model": {"name": "bixt_ti_cls_hierarchy", "args": {"num_classes": 4, **HIERARCHY}}}
    save_model(tmp_path / "m.safetensors", model, meta)
    loaded = load_model(tmp_path / "m", "cpu")
    assert int(loaded.get_buffer("encoder.stages.0.norm.num_batches_tracked")) == 1
    assert_same(loaded.state_dict(), model.state_dict())


def test_every_form_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run.v1"
    last, best = run / "last.safetensors", run / "best.safetensors"
    save_model(last, tiny(), META)
    assert find_checkpoint(run) == last  # nothing was chosen
    save_model(best, tiny(), META)
    assert find_checkpoint(run) == best
    assert find_checkpoint(str(run)) == best
    assert find_checkpoint(last) == find_checkpoint(run / "last") == last
    (tmp_path / "any.bin").write_bytes(last.read_bytes())
    assert find_checkpoint(tmp_path / "any.bin") == tmp_path / "any.bin"
    monkeypatch.chdir(run)
    assert find_checkpoint("last") == Path("last.safetensors")
    assert find_checkpoint(".").resolve() == best
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("run.v1/") == Path("run.v1/best.safetensors")


def test_missing_checkpoint_says_what_is_there(tmp_path: Path) -> None:
    save_model(tmp_path / "run" / "last.safetensors", tiny(), META)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*run/beast: .*run holds last\.safetensors"):
        load_model(tmp_path / "run" / "beast")
    with pytest.raises(FileNotFoundError, match=r"holds the run run; did you mean 'run'\?"):
        load_model(tmp_path / "runn")
    with pytest.raises(FileNotFoundError, match="nowhere holds no checkpoint"):
        load_model(tmp_path / "nowhere" / "best")
    with pytest.raises(FileNotFoundError, match="no checkpoint bixt_ti_cls"):
        load_model("bixt_ti_cls")


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        load_model(path, "cpu")
    return str(caught.value)


def test_model_knows_its_description(tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", tiny(), META)
    description = load_model(tmp_path / "m", "cpu").description
    assert description == Description.from_dict(META)
    assert description.task == "classification" and description.model == META["model"]
    assert description.facts == {"classes": META["classes"]}
    assert description.preprocess == Preprocess(**PREPROCESS)
    # Saved again, it says the same.
    save_model(tmp_path / "again.safetensors", tiny(), description)
    assert load_model(tmp_path / "again", "cpu").description == description


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated_file(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, tiny(), META)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content) if isinstance(keep, float) else keep)])
    assert "truncated" in refused(path)


@pytest.mark.parametrize("content", [b"hello", bytes(1000), b"\xff" * 1000], ids=["text", "zeros", "ones"])
def test_file_of_another_format(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    assert "another format" in refused(tmp_path / "m.safetensors")


def test_torch_file_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "m.pt")
    assert "another format" in refused(tmp_path / "m.pt")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_somebody_else(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file(tiny().state_dict(), tmp_path / "m.safetensors", metadata=metadata)
    assert "no description: it was not written by bixt3d" in refused(tmp_path / "m.safetensors")


WHOLE = {"format": 1, **META}


@pytest.mark.parametrize(
    "header",
    [
        "{",
        "[1, 2]",
        "null",
        *(json.dumps({k: v for k, v in WHOLE.items() if k != lost}) for lost in WHOLE),
        *(
            json.dumps({**WHOLE, **change})
            for change in (
                {"format": 99},
                {"model": "bixt_ti_cls"},
                {"model": {"name": "bixt_ti_cls"}},
                {"model": {"name": 3, "args": {}}},
                {"model": {"name": "bixt_ti_cls", "args": []}},
                {"model": {"name": "bixt_ti_klass", "args": {}}},
                {"model": {"name": "bixt_ti_cls", "args": {"colour": 3}}},
                {"model": {"name": "bixt_ti_cls", "args": {"dim": "wide"}}},
                {"classes": None},
                {"classes": "abcd"},
                {"preprocess": {}},
                {"preprocess": {**PREPROCESS, "num_points": "many"}},
            )
        ),
    ],
)
def test_damaged_description(header: str, tmp_path: Path) -> None:
    save_file(tiny().state_dict(), tmp_path / "m.safetensors", metadata={"bixt3d": header})
    refused(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"dim": 16}, r"of another shape \(.* is \(.*\) instead of"),
        ({"depth": 3}, r"[1-9]\d* tensors missing"),
        ({"depth": 1}, r"[1-9]\d* unknown"),
        ({"num_classes": 7}, r"0 tensors missing, 0 unknown, 2 of another shape"),
    ],
)
def test_weights_of_another_model(args: dict[str, int], message: str, tmp_path: Path) -> None:
    model = {"name": "bixt_ti_cls", "args": {**META["model"]["args"], **args}}  # type: ignore[dict-item]
    header = {"bixt3d": json.dumps({"format": 1, **META, "model": model})}
    save_file(tiny().state_dict(), tmp_path / "m.safetensors", metadata=header)
    assert re.search("another model than it says.*" + message, refused(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("whole", [True, False])
def test_a_head_that_is_not_the_described_one_is_not_saved(whole: bool, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", tiny(), META)
    model, meta = load_checkpoint(tmp_path / "m.safetensors", "cpu")
    before = contents(tmp_path)
    model.head.linear = torch.nn.Linear(12, 9)  # type: ignore[union-attr]
    about = model.description if whole else meta
    with pytest.raises(ValueError, match="description: expected num_classes=9, .* got 4: .*reset_classifier"):
        save_model(tmp_path / "m.safetensors", model, about)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes: expected 9 names, one a logit, got 4"):
        bixt3d.Predictor(model, "cpu")
    model.head.linear = torch.nn.Linear(12, 4)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="classes: expected 4 names, one a logit, got 2"):
        save_model(tmp_path / "m.safetensors", model, {**meta, "classes": ["a", "b"]})
    assert contents(tmp_path) == before


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("raw", [True, False], ids=["pickle", "torch"])
def test_pickle_in_place_of_a_state_does_not_run(raw: bool, tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "resume.pt"
    state = {"epoch": 1, "model": Trap(sprung)}
    path.write_bytes(pickle.dumps(state, protocol=2)) if raw else torch.save(state, path)
    with pytest.raises(ValueError, match=r"resume\.pt: cannot resume from it"):
        load_state(path)
    assert "another format" in refused(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False) if not raw else pickle.loads(path.read_bytes())
    assert sprung.exists()  # the trap works


def save_weights(path: Path) -> None:
    save_model(path, tiny(), {**META, "note": "new"})


def save_run(path: Path) -> None:
    save_state(path, {"w": torch.ones(4)})


def fail_in(what: str, error: BaseException) -> Callable[..., None]:
    def failing(*arguments: Any, **options: Any) -> None:
        for path in arguments:
            if what == "write" and isinstance(path, (str, Path)):
                Path(path).write_text("half a file")
        raise error

    return failing


@pytest.mark.parametrize("exists", [True, False], ids=["over a file", "first file"])
@pytest.mark.parametrize("what", ["write", "fsync", "replace"])
@pytest.mark.parametrize("save", [save_weights, save_run])
def test_failure_leaves_the_folder_as_it_was(
    save: Callable[[Path], None], what: str, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    if exists:
        path.write_bytes(b"the previous one")
    before = contents(tmp_path)
    failing = fail_in(what, OSError(28, "No space left on device"))
    if what == "write":
        monkeypatch.setattr(Path, "write_bytes", failing)
        monkeypatch.setattr(torch, "save", failing)
    else:
        monkeypatch.setattr(os, what, failing)
    with pytest.raises(OSError, match=rf"could not save {path} .*No space left on device") as caught:
        save(path)
    monkeypatch.undo()
    assert ("the previous file.bin is untouched" in str(caught.value)) is exists
    after = contents(tmp_path)
    assert after.pop("file.bin.previous", b"the previous one") == b"the previous one"
    assert after == before
    save(path)  # and works again when there is room
    kept = {"file.bin.previous"} if exists and save is save_run else set()
    assert {p.name for p in tmp_path.iterdir()} == {"file.bin", *kept}
    assert path.read_bytes() != b"the previous one"


def test_interrupt_while_writing_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(path)
    before = contents(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", fail_in("write", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save_weights(path)
    assert contents(tmp_path) == before


def test_error_of_the_writer_is_an_oserror_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch reports a full disk as a RuntimeError."""
    monkeypatch.setattr(torch, "save", fail_in("write", RuntimeError("PytorchStreamWriter failed")))
    with pytest.raises(OSError, match=r"could not save .*resume\.pt \(PytorchStreamWriter failed\)"):
        save_run(tmp_path / "resume.pt")
    assert contents(tmp_path) == {}


def test_saving_replaces_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "m.safetensors"
    save_model(path, tiny(), META)
    other = tiny()
    with torch.no_grad():
        other.get_parameter("head.linear.bias").fill_(7.0)
    save_model(path, other, META)
    assert float(weights(path)["head.linear.bias"].mean()) == 7.0
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="files have modes on POSIX")
def test_weights_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_weights(tmp_path / "m.safetensors")
        save_run(tmp_path / "resume.pt")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o640, 0o640]


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(OSError, match=r"could not save .*m\.safetensors"):
        save_model(tmp_path / "m.safetensors", tiny(), META)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
