"""Search for shapes that look alike: nearest by cosine, as rows and as a page of thumbnails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.inference import Predictor
from bixt3d.inference.attempts import attempt
from bixt3d.progress import progress
from bixt3d.visualize.pages import card, page
from bixt3d.visualize.scene import LabelledCloud

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A shape that was found.

    Attributes:
        file: Its file.
        similarity: The cosine of its embedding and the query's.
        up: The axis that points up in it, of clouds that find their own the one found; None: as it is.
    """

    file: Path
    similarity: float
    up: str | None = None


def search(
    predictor: Predictor, query: Any, files: Sequence[Path], count: int = 10, category: Any = None
) -> list[Found]:
    """Find the shapes that are nearest to one, best first; a file that cannot be read is named in the log.

    Args:
        predictor: Its model says what is alike: see `Predictor.embed`.
        query: An array, a tensor or a file; among the files it is left out.
        files: Where to look.
        count: How many to return, fewer where there are not as many.
        category: As for `Predictor.segment`, of a model that is told it.

    Raises:
        ValueError: If the query cannot be embedded, or none of the files.
        FileNotFoundError: If the query is missing.
    """
    own = Path(query).expanduser().resolve() if isinstance(query, (str, Path)) else None
    wanted = predictor.embed_one(query, category)[0][0]  # (D,)
    kept, rows = [], []
    with progress("embedding", len(files), "files") as done:
        for file in files:
            if file.resolve() != own:
                found = attempt(file, predictor.embed_one, file, category)
                if isinstance(found, Exception):
                    logger.warning("left out: %s", found)
                else:
                    kept.append((file, found[1]))
                    rows.append(found[0][0])
            done(1)
    if not rows:
        raise ValueError("expected files to search, got none that can be read")
    vectors = np.stack([wanted, *rows]).astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    near = vectors[1:] @ vectors[0]  # (F,)
    best = np.argsort(-near, kind="stable")[:count]
    return [Found(file, float(near[at]), up) for at in best.tolist() for file, up in [kept[at]]]


def write_search(
    predictor: Predictor,
    query: Path,
    found: Sequence[Found],
    base: Path | None,
    path: Path,
    category: Any = None,
) -> Path:
    """Write a page with thumbnails of a query and of what was found; it needs no network.

    Args:
        predictor: Reads the files.
        query: The file that was searched for.
        found: What `search` returned.
        base: The folder below which files are named; None to give their whole paths.
        path: Where to write.
        category: As for `search`.
    """

    def drawn(file: Path, up: str | None, lines: Sequence[str]) -> str:
        return card(LabelledCloud(str(file), predictor.read(file)[:, :3], up=up), ["shape"], lines)

    own = predictor.answer(query, category).up if predictor.auto_up else predictor.up
    cards = [drawn(one.file, one.up, [f"{one.similarity:.3f}", name_below(one.file, base)]) for one in found]
    body = [
        '<p class="dim">The nearest shapes first, by the cosine of their embeddings.</p>',
        f'<div class="cards">{drawn(query, own, ["query", query.name])}</div>',
        f"<h2>The nearest {len(cards)}</h2>",
        f'<div class="cards">{"".join(cards)}</div>',
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(f"Like {query.name}", body), encoding="utf-8")
    return path


def name_below(file: Path, base: Path | None) -> str:
    """Return a file's path below a folder, or its whole path."""
    return file.relative_to(base).as_posix() if base and file.is_relative_to(base) else str(file)
