"""Images: splits of them, files of every kind, sizes, numbers, random changes, pixels as points."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bixt3d.datasets.images import (
    SUFFIXES,
    ImageSplit,
    as_numbers,
    fit_image,
    move_images,
    pixel_clouds,
    read_image,
)

Image: Any = pytest.importorskip("PIL.Image")


def picture(height: int = 6, width: int = 9) -> np.ndarray[Any, Any]:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (height, width, 3), dtype=np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestSplit:
    def test_of_arrays(self) -> None:
        split = ImageSplit(np.zeros((4, 5, 6, 3), np.uint8), [0, 1, 1, 0], ["a", "b"])  # type: ignore[arg-type]
        assert (len(split), split.num_points, split.channels) == (4, 30, 3)
        assert split.points.dtype == torch.uint8 and split.classes == ("a", "b")
        chosen = split.select(torch.tensor([1, 2]))
        assert isinstance(chosen, ImageSplit) and chosen.label.tolist() == [1, 1]
        assert isinstance(split[:2], ImageSplit) and split[3].points.shape == (5, 6, 3)
        assert isinstance(split.to("cpu"), ImageSplit)

    def test_doubles_become_single(self) -> None:
        assert ImageSplit(np.zeros((1, 2, 2, 1)), [0], ["a"]).points.dtype == torch.float32  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("images", "label", "message"),
        [
            (np.zeros((2, 4, 4)), [0, 0], r"expected images \(S, H, W, C\)"),
            (np.zeros((2, 4, 4, 3), np.int32), [0, 0], "uint8 or float32"),
            (np.full((1, 2, 2, 1), np.nan), [0], "finite numbers"),
            (np.zeros((0, 4, 4, 3), np.uint8), [], "finite numbers"),
            (np.zeros((2, 4, 4, 3), np.uint8), [0, 1], "label: expected values in 0..0"),
        ],
    )
    def test_wrong(self, images: Any, label: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ImageSplit(images, torch.tensor(label, dtype=torch.int64), ("a",))


class TestFiles:
    @pytest.mark.parametrize("suffix", [one for one in SUFFIXES if one not in (".jpg", ".jpeg", ".gif")])
    def test_exact(self, suffix: str, tmp_path: Path) -> None:
        options = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(picture()).save(tmp_path / f"a{suffix}", **options)
        assert np.array_equal(read_image(tmp_path / f"a{suffix}").numpy(), picture())

    @pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".gif"])
    def test_near(self, suffix: str, tmp_path: Path) -> None:
        smooth = np.broadcast_to(np.linspace(0, 255, 32, dtype=np.uint8)[:, None, None], (32, 32, 3))
        Image.fromarray(np.ascontiguousarray(smooth)).save(tmp_path / f"a{suffix}")
        assert np.abs(read_image(tmp_path / f"a{suffix}").numpy().astype(int) - smooth).mean() < 3

    def test_turned_by_the_camera(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[274] = 6  # to be turned by 90 degrees, clockwise
        Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(read_image(tmp_path / "a.png").numpy(), np.rot90(picture(), -1))

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
    def test_modes_become_colours(self, mode: str, tmp_path: Path) -> None:
        path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        Image.fromarray(picture()).convert(mode).save(path)
        expected = np.array(Image.open(path).convert("RGB"))
        assert np.array_equal(read_image(path).numpy(), expected)

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match=r"a.png: .*expected 8 bits a channel"):
            read_image(tmp_path / "a.png")

    def test_damaged(self, tmp_path: Path) -> None:
        Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
        (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
        (tmp_path / "text.jpg").write_text("no image")
        for name in ("half.png", "text.jpg"):
            with pytest.raises(ValueError, match=f"{name}: not read as an image"):
                read_image(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=r"no file .*gone.png"):
            read_image(tmp_path / "gone.png")

    def test_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match="decompression bomb"):
            read_image(tmp_path / "a.png")


class TestSize:
    def test_of_that_size_already(self) -> None:
        image = torch.from_numpy(picture(8, 8))
        assert fit_image(image, 8) is image

    @pytest.mark.parametrize("size", [(16, 32), (32, 16), (7, 23)])
    def test_middle(self, size: tuple[int, int]) -> None:
        """A ramp along the longer side: what is left is its middle, as steep as the scale says."""
        height, width = size
        long = max(size)
        ramp = torch.arange(long, dtype=torch.float32) * 4
        image = (ramp[:, None] if height == long else ramp).expand(height, width)[..., None]
        fitted = fit_image(image, 8)
        assert fitted.shape == (8, 8, 1)
        line = fitted[:, 4, 0] if height == long else fitted[4, :, 0]
        assert line.mean().item() == pytest.approx(ramp.mean().item(), abs=4)
        step = 4 * min(size) / 8
        inner = line.diff()[1:-1]
        assert inner.mean().item() == pytest.approx(step, rel=0.1)

    def test_bytes_stay_bytes(self) -> None:
        image = torch.from_numpy(picture(20, 30))
        fitted = fit_image(image, 10)
        assert fitted.dtype == torch.uint8 and fitted.shape == (10, 10, 3)
        expected = fit_image(image.float(), 10)
        assert (fitted.float() - expected.clamp(0, 255)).abs().max() <= 0.5


class TestNumbers:
    def test_imagenet(self) -> None:
        pixel = as_numbers(torch.tensor([[[255, 0, 128]]], dtype=torch.uint8))[0, 0].tolist()
        expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
        assert pixel == pytest.approx(expected)

    def test_grey_and_floats(self) -> None:
        grey = as_numbers(torch.full((1, 2, 2, 1), 255, dtype=torch.uint8))
        assert grey[0, 0, 0].item() == pytest.approx((1 - 0.449) / 0.226, rel=1e-6)
        floats = torch.rand(1, 2, 2, 3)
        assert as_numbers(floats).equal(floats)


class TestMoves:
    images = torch.rand(5, 8, 8, 3, generator=torch.Generator().manual_seed(1))

    def test_nothing(self) -> None:
        torch.testing.assert_close(move_images(self.images, generator()), self.images, atol=1e-5, rtol=0)

    def test_repeats_and_differs(self) -> None:
        options = {"scale_low": 0.8, "scale_high": 1.2, "shift_reach": 0.2, "rotate_degrees": 20}
        first = move_images(self.images, generator(), **options)
        assert first.equal(move_images(self.images, generator(), **options))
        assert not first.equal(move_images(self.images, generator(3), **options))
        same = move_images(self.images[:1].expand(4, -1, -1, -1), generator(), **options)
        assert not same[0].equal(same[1])

    def test_mirror(self) -> None:
        moved = move_images(self.images, generator(), mirror_probability=1.0)
        torch.testing.assert_close(moved, self.images.flip(2), atol=1e-5, rtol=0)
        half = move_images(self.images.expand(5, -1, -1, -1), generator(), mirror_probability=0.5)
        kinds = [
            next(kind for kind in (0, 1) if torch.allclose(one, (old, old.flip(1))[kind], atol=1e-5))
            for one, old in zip(half, self.images, strict=True)
        ]
        assert 0 < sum(kinds) < 5

    def test_scale(self) -> None:
        """Twice as large: the middle quarter fills the image."""
        ramp = torch.arange(8.0).expand(8, 8)[None, ..., None]
        moved = move_images(ramp, generator(), scale_low=2.0, scale_high=2.0)
        torch.testing.assert_close(moved[0, 4, :, 0], torch.arange(8.0) / 2 + 1.75, atol=1e-4, rtol=0)

    def test_shift(self) -> None:
        """Every row and column moves by the same way, at most the reach; zeros come in."""
        dot = torch.zeros(64, 9, 9, 1)
        dot[:, 4, 4] = 1.0
        moved = move_images(dot, generator(), shift_reach=0.5)[..., 0]  # up to 2.25 pixels
        place = torch.arange(9.0) - 4
        total = moved.sum((1, 2))
        right, down = (moved.sum(1) @ place) / total, (moved.sum(2) @ place) / total
        torch.testing.assert_close(total, torch.ones(64), atol=1e-4, rtol=0)
        for way in (right, down):
            assert way.abs().max() <= 2.25 and way.max() > 1.5 and way.min() < -1.5

    def test_turn(self) -> None:
        """The distance from the middle stays, and a dot goes at most so far round."""
        dot = torch.zeros(64, 17, 17, 1)
        dot[:, 8, 14] = 1.0
        moved = move_images(dot, generator(), rotate_degrees=30.0)[..., 0]
        place, total = torch.arange(17.0) - 8, moved.sum((1, 2))
        right, down = (moved.sum(1) @ place) / total, (moved.sum(2) @ place) / total
        torch.testing.assert_close((right**2 + down**2).sqrt(), torch.full((64,), 6.0), atol=0.1, rtol=0)
        angle = torch.atan2(down, right).rad2deg()
        assert angle.abs().max() <= 31 and angle.max() > 20 and angle.min() < -20

    def test_the_axes_are_scaled_apart(self) -> None:
        spread = self._spread(move_images(self._disc(), generator(), scale_low=0.6, scale_high=1.4))
        ratio = (spread[:, 0] / spread[:, 1]).log()
        assert ratio.std() > 0.1

    @staticmethod
    def _disc() -> Tensor:
        place = torch.arange(33.0) - 16
        disc = (-(place[:, None] ** 2 + place**2) / 32).exp()
        return disc.expand(32, 33, 33)[..., None]

    @staticmethod
    def _spread(images: Tensor) -> Tensor:
        place = torch.arange(33.0) - 16
        total = images.sum((1, 2, 3))
        across = images[..., 0].sum(1) @ place**2 / total
        down = images[..., 0].sum(2) @ place**2 / total
        return torch.stack([across, down], 1)


def test_pixels_as_points() -> None:
    images = torch.arange(12, dtype=torch.uint8).view(1, 2, 3, 2)
    cloud = pixel_clouds(images)
    assert cloud.shape == (1, 6, 5) and cloud.dtype == torch.float32
    assert cloud[0, 0].tolist() == pytest.approx([-2 / 3, 1 / 3, 0, 0, 1])
    assert cloud[0, 5].tolist() == pytest.approx([2 / 3, -1 / 3, 0, 10, 11])
    assert math.isclose(cloud[0, :, 0].sum().item(), 0, abs_tol=1e-6)
