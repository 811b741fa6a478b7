"""Name a shape with an exported classifier: numpy and ONNX Runtime, no PyTorch.

bixt3d export modelnet40_cpu --out classifier.onnx
python examples/serve.py classifier.onnx chair.off scan.ply
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime

from bixt3d.datasets.readers import read_cloud


def classify(session: onnxruntime.InferenceSession, path: str) -> tuple[str, float]:
    """The class of a mesh or cloud and its probability; the file itself turns, centres, scales and orders."""
    about = json.loads(session.get_modelmeta().custom_metadata_map["bixt3d"])
    points = read_cloud(path, about["features"], about["preprocess"]["stored_points"])  # (N, 3 + F)
    points[:, :3] -= points[:, :3].mean(0)  # in float64: float32 rounds the coordinates of a map
    (logits,) = session.run(["logits"], {"points": points[None].astype(np.float32)})  # (1, K)
    shares = np.exp(logits[0] - logits[0].max())
    shares /= shares.sum()
    return about["classes"][shares.argmax()], float(shares.max())


if __name__ == "__main__":
    file, *clouds = sys.argv[1:]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    failed = False
    for cloud in clouds:
        try:
            label, share = classify(session, cloud)
            print(f"{cloud}: {label} ({share:.1%})")
        except (OSError, ValueError) as error:  # of one file; the others are named all the same
            failed = True
            print(f"not named: {error}", file=sys.stderr)
    sys.exit(failed)
