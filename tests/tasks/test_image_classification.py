"""Images through the shared training, checkpoints, evaluation and prediction; what the task refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bixt3d
from bixt3d.cli import main
from bixt3d.config import Config, load_config
from bixt3d.datasets.images import ImageSplit, as_numbers, fit_image, move_images
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.preprocess import Preprocess
from bixt3d.inference.export import export_model
from bixt3d.tasks import ImageClassificationTask, find_task
from tests.models.randomize import randomize

SMALL = ["dim=32", "depth=2", "num_heads=2", "num_latents=8", "patch=4", "stride=2", "drop_path=0.0"]
SETTINGS = [
    *("model.name=bixt_ti_image_cls", "data.num_points=64", "train.ema_decay=0.99"),
    *(f"model.args.{setting}" for setting in SMALL),
]
TRAINED = [
    *("augment.scale_low=0.9", "augment.scale_high=1.1", "augment.shift=0.1", "augment.rotate_degrees=5"),
    *("optim.lr=5e-3", "optim.warmup_epochs=1", "optim.label_smoothing=0.1", "data.train_split=trainval"),
    *("train.epochs=12", "train.batch_size=32"),
]


def settings(folder: Path, *more: str) -> Config:
    return load_config(Config(), [*SETTINGS, f"run.dir={folder}", *more])


def images(count: int = 12, side: int = 8, channels: int = 3) -> ImageSplit:
    """Two classes: the left half is bright, or the right one."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 100, (count, side, side, channels), dtype=np.uint8)
    label = np.arange(count) % 2
    for image, right in zip(pixels, label, strict=True):
        image[:, side // 2 :] += np.uint8(120) * right.astype(np.uint8)
        image[:, : side // 2] += np.uint8(120) * (1 - right).astype(np.uint8)
    return ImageSplit(pixels, label, ["left", "right"])  # type: ignore[arg-type]


def test_digits(tmp_path: Path) -> None:
    """scikit-learn's 8 x 8 digits, in well under a minute; then the checkpoint alone answers alike."""
    digits: Any = pytest.importorskip("sklearn.datasets").load_digits()
    pixels = (digits.images[..., None] / 8 - 1).astype(np.float32)  # (1797, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, label, names = pixels[order], digits.target[order], [str(name) for name in range(10)]
    train = ImageSplit(pixels[:1400], label[:1400], names)  # type: ignore[arg-type]
    test = ImageSplit(pixels[1400:], label[1400:], names)  # type: ignore[arg-type]
    result = bixt3d.train(settings(tmp_path / "run", *TRAINED), train=train, test=test, device="cpu")
    assert result.last["oa"] >= 0.97
    predictor = bixt3d.Predictor(tmp_path / "run", "cpu", batch_size=64)
    answers = predictor(list(pixels[1400:]))
    right = np.mean([answer.index == truth for answer, truth in zip(answers, label[1400:], strict=True)])
    assert right == pytest.approx(result.last["oa"], abs=0.01)
    assert predictor.embed(pixels[1400:1404]).shape == (4, 32)
    larger = np.kron(pixels[1400], np.ones((4, 4, 1), np.float32))
    assert predictor(larger).label == str(label[1400])


def test_folder_to_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, the programs, and a checkpoint that names a photo's class."""
    image: Any = pytest.importorskip("PIL.Image")
    made = images(48, 40)
    for at, (pixels, label) in enumerate(zip(made.points.numpy(), made.label.tolist(), strict=True)):
        place = tmp_path / "data" / ("test" if at >= 40 else "train") / made.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(place / f"{at}.png")
    more = ["data.name=image_folder", f"data.root={tmp_path / 'data'}", "augment.shift=0.05"]
    more += ["train.epochs=6", "train.batch_size=8", "optim.lr=5e-3", "optim.warmup_epochs=0"]
    result = bixt3d.train(settings(tmp_path / "run", *more), device="cpu")
    assert result.last["oa"] == 1.0 and result.best is not None
    photo = np.concatenate([made.points[0].numpy()] * 2, 0)  # upright
    image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    predictor = bixt3d.Predictor(tmp_path / "run", "cpu")
    answer = predictor(tmp_path / "photo.jpg")
    assert answer.label == "left" and answer.points.shape == (64, 6)
    found = predictor(tmp_path / "data" / "test")
    assert len(found) == 8 and all(one.label == name.split("/")[0] for name, one in found.items())
    monkeypatch.chdir(tmp_path)
    words = [
        (["predict", "run", "photo.jpg"], "left"),
        (["evaluate", "run"], "100.00%"),
        (
            ["train", "--cfg", "run/config.yaml", "--set", "run.dir=other", "--dry-run"],
            "36 train, 4 val, 8 test",
        ),
    ]
    for verb, said in words:
        main(verb)
        assert said in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"expected files \(.jpg"):
        (tmp_path / "none").mkdir()
        predictor(tmp_path / "none")


def test_resume_is_exact(tmp_path: Path) -> None:
    options = ["train.epochs=3", "train.batch_size=4", "augment.mirror=0.0", "data.train_split=trainval"]
    whole = bixt3d.train(settings(tmp_path / "whole", *options), train=images(), device="cpu")
    short = [*options, "train.epochs=1"]
    bixt3d.train(settings(tmp_path / "parts", *short), train=images(), device="cpu")
    with pytest.raises(ValueError, match="other clouds: 12 of 12"):
        other = ImageSplit(255 - images().points, images().label, images().classes)
        bixt3d.train(settings(tmp_path / "parts", *options), train=other, resume=True, device="cpu")
    parts = bixt3d.train(settings(tmp_path / "parts", *options), train=images(), resume=True, device="cpu")
    for name, value in whole.model.state_dict().items():
        assert value.equal(parts.model.state_dict()[name])


def ready(folder: Path, *more: str) -> ImageClassificationTask:
    task = ImageClassificationTask(["left", "right"])
    task.configure(settings(folder, *more))
    return task


def test_what_a_batch_is(tmp_path: Path) -> None:
    """Bytes become numbers before the model, and are moved in training alone, by the settings."""
    task, split = ready(tmp_path, "augment.rotate_degrees=10", "augment.mirror=0.5"), images()
    assert task.arrange(split, True) is split
    assert task.choose()(split.points, torch.Generator(), None) is None
    change = task.augmentation(split)
    moves = {"scale_low": 2 / 3, "scale_high": 1.5, "shift_reach": 0.2, "rotate_degrees": 10.0}
    expected = move_images(
        as_numbers(split.points), torch.Generator().manual_seed(1), **moves, mirror_probability=0.5
    )
    assert change(split.points, torch.Generator().manual_seed(1)).equal(expected)
    seen: list[torch.Tensor] = []

    class Model(torch.nn.Module):
        def forward(self, points: torch.Tensor) -> torch.Tensor:
            seen.append(points)
            return points.mean((1, 2))

    task.forward(Model(), Batch(split.points, split.label))
    task.forward(Model(), Batch(expected, split.label))
    assert seen[0].equal(as_numbers(split.points)) and seen[1].equal(expected)


def test_predictor_sees_what_evaluation_sees(tmp_path: Path) -> None:
    model: Any = bixt3d.create_model("bixt_ti_image_cls", num_classes=2, dim=16, depth=2, num_heads=2)
    randomize(model)
    model.eval()
    image = images(1, 30).points[0]
    fitted = fit_image(image, 224)
    answer = bixt3d.Predictor(model, "cpu", classes=["left", "right"])(image)
    with torch.no_grad():
        expected = model(as_numbers(fitted)[None]).softmax(-1)[0]
    torch.testing.assert_close(torch.from_numpy(answer.probabilities), expected)


@pytest.mark.parametrize(
    "setting",
    ["data.order=fps", "data.up=z", "data.features=[color]", "augment.mix=0.5", "augment.dropout=0.5"]
    + ["augment.jitter_std=0.1", "augment.feature_jitter={color: 0.1}", "data.estimate_normals=true"]
    + ["data.normalization=robust", "augment.strays=0.1", "augment.turn=axes", "augment.tilt=5"],
)
def test_settings_of_clouds(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{setting.partition('=')[0]}: expected none for images, got"):
        ready(tmp_path, setting)


def test_wrong_data(tmp_path: Path) -> None:
    clouds = bixt3d.Split(torch.rand(4, 64, 3), torch.zeros(4, dtype=torch.int64), ("a",))
    with pytest.raises(ValueError, match=r"expected images, .*ImageSplit, got Split"):
        ready(tmp_path).arrange(clouds)
    with pytest.raises(ValueError, match="data.num_points: expected 100, the pixels of the images, got 64"):
        ready(tmp_path).arrange(images(4, 10))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), r"expected \(H, W, 3\), uint8 or floating-point, got"),
        (np.zeros((8, 8, 3), np.int64), "got torch.int64"),
        (np.full((8, 8, 3), np.nan), "finite numbers, got NaN"),
        (np.zeros((0, 8, 3), np.uint8), "got torch.uint8"),
        (np.zeros((8, 8), np.uint8), "expected one with 3 axes or a batch of them"),
    ],
)
def test_wrong_images(image: np.ndarray[Any, Any], message: str) -> None:
    model = bixt3d.create_model("bixt_ti_image_cls", num_classes=2, dim=16, depth=1, num_heads=2)
    with pytest.raises(ValueError, match=message):
        bixt3d.Predictor(model, "cpu")(image)


@pytest.mark.parametrize(
    ("scale", "shift", "said"),
    [
        (1 / 255, 0.0, "floats from 0 to 0.859, as pixels divided by 255 are; give it uint8"),
        (1.0, 0.0, "floats from 0 to 219, as pixels from 0 to 255 are"),
        (1 / 58, -2.0, None),
    ],
)
def test_floats_that_are_no_normalised_image_are_told_once(
    scale: float, shift: float, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = bixt3d.create_model("bixt_ti_image_cls", num_classes=2, dim=16, depth=1, num_heads=2)
    pixels = images().points
    pixels[:, 0, 0] = 0
    predictor = bixt3d.Predictor(model, "cpu")
    predictor([*pixels])
    assert not caplog.messages
    predictor([*(pixels.float() * scale + shift)])
    assert len(caplog.messages) == (said is not None) and (said or "") in "".join(caplog.messages)


def test_a_model_of_floats_is_given_floats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its checkpoint says what it was trained on."""
    train = images()
    train = ImageSplit(train.points.float() / 255, train.label, train.classes)
    config = settings(tmp_path / "run", "train.epochs=1", "data.train_split=trainval")
    bixt3d.train(config, train=train, device="cpu")
    caplog.clear()
    bixt3d.Predictor(tmp_path / "run", "cpu")(train.points[0])
    assert not caplog.messages
    bixt3d.Predictor(tmp_path / "run", "cpu")(images().points[0])
    assert "trained on float images, got uint8" in caplog.text
    lines = find_task("image_classification").brief({"train": train, "test": images()})
    assert lines[1:] == ["note: test has uint8 images, training float32: give both alike"]


def test_what_images_do_not_have(tmp_path: Path) -> None:
    model = bixt3d.create_model("bixt_ti_image_cls", num_classes=2, dim=16, depth=1, num_heads=2)
    with pytest.raises(ValueError, match="up: expected none for images, got 'z'"):
        bixt3d.Predictor(model, "cpu", up="z")(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="robust is for models of whole clouds, got one for image_class"):
        bixt3d.Predictor(model, "cpu", normalization="robust")
    predictor = bixt3d.Predictor(model, "cpu")
    with pytest.raises(
        ValueError, match="^view: expected a model of clouds, got one for image_classification"
    ):
        predictor.require_clouds("view")
    with pytest.raises(ValueError, match="^attention: expected a model of clouds, got one for image_class"):
        predictor.attention(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="expected a model of clouds, got one of images"):
        export_model(model, tmp_path / "model.onnx")


def test_brief_names_what_is_missing() -> None:
    task = find_task("image_classification")
    val = images().select(torch.tensor([0, 2]))
    lines = task.brief({"train": images(), "val": val})
    assert lines == ["  2 classes; 8 x 8 pixels of 3 channels", "note: val has no image of right"]
    assert task.inputs(images().points[0], Preprocess(16))[0].shape == (1, 4, 4, 3)
