"""A LiDAR scan as points and as an image: two tokenizers and heads, and one trunk that serves both.

python examples/lidar_range_image.py [SCAN.npz ...]   # with SemanticKITTI's labels; the last is the test
"""

import sys

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import bixt3d
from bixt3d.models import encoder, heads, image, segmenter, tokenizers

SIZE, REACH, RISE = (32, 256), 50.0, (-0.42, 0.05)  # of the image; metres; radians from bottom to top
GROUND = (9, 10, 11, 12, 17)  # SemanticKITTI's road, parking, sidewalk, other ground, terrain


def made_street(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scan a street between houses from 1.7 m: points (N, 3), and whether each is ground (N,)."""
    rise, turn = (a.ravel() for a in np.meshgrid(np.linspace(*RISE, SIZE[0]), np.arange(SIZE[1]) * 0.02453))
    ray = np.stack([np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise)], 1)  # (N, 3)
    fronts = np.random.default_rng(seed).uniform(4, 15, 24)[(turn / 6.29 * 24).astype(int)]
    wall, ground = fronts / np.maximum(np.abs(ray[:, 1]), 0.1), 1.7 / np.maximum(-ray[:, 2], 1e-3)
    return ray * np.minimum(wall, ground)[:, None].clip(max=REACH), (ground < wall).astype(int)


def look(points, pixels, xyz, label, kept):
    """Logits and truth of the kept points, and of all pixels of the range image, -1 where nothing is."""
    cloud, reach = torch.from_numpy(xyz[kept] / 10).float()[None], np.linalg.norm(xyz, axis=1)
    row = np.interp(np.arcsin(xyz[:, 2] / reach), RISE, (SIZE[0] - 1, 0))
    column = np.arctan2(xyz[:, 1], xyz[:, 0]) / 6.2832 % 1 * (SIZE[1] - 1)
    place = row.round().astype(int), column.round().astype(int)
    values, truth = np.zeros((*SIZE, 2), np.float32), np.full(SIZE, -1)
    values[place], truth[place] = np.stack([reach / REACH, xyz[:, 2] / 3], 1), label
    of_pixels = pixels(torch.from_numpy(values)[None]).flatten(0, 2), torch.from_numpy(truth.ravel())
    return {"points": (points(cloud)[0], torch.from_numpy(label[kept])), "image": of_pixels}


def main(files: list[str]) -> None:
    read = [(z["xyz"], np.isin(z["label"], GROUND).astype(int)) for z in map(np.load, files)]
    *train, test = read or [made_street(seed) for seed in range(9)]
    torch.manual_seed(0)
    trunk, both = bixt3d.BiXT(48, 3, 3, 16, last_layer="tokens"), torch.nn.ModuleList()
    walk = encoder.PointEncoder(tokenizers.SinusoidalTokenizer(3, 48), trunk)
    both.append(segmenter.PointSegmenter(walk, heads.PartHead(48, 2), num_categories=0))
    grid = image.ImageEncoder(tokenizers.PatchTokenizer(2, 48, 4), trunk)
    both.append(image.ImageSegmenter(grid, heads.PartHead(48, 2)))
    optimizer = torch.optim.AdamW(both.parameters(), 3e-3)  # the trunk's weights count once
    for xyz, label in train * (150 // len(train)):
        seen = look(*both, xyz, label, torch.randperm(len(xyz))[:1024].numpy())
        sum(cross_entropy(*pair, ignore_index=-1) for pair in seen.values()).backward()
        optimizer.step(), optimizer.zero_grad()
    for name, (logits, truth) in look(*both.requires_grad_(False).eval(), *test, slice(None)).items():
        right, ground = (x[truth >= 0].float().mean().item() for x in (logits.argmax(-1) == truth, truth))
        print(f"as {name}: {right:.1%} right; ground is {ground:.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
