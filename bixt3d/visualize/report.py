"""A report of an evaluation: every cloud's prediction, the worst, confused pairs, accuracy by confidence."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bixt3d import metrics
from bixt3d.datasets.loader import Batch
from bixt3d.datasets.split import Split
from bixt3d.tasks import Task
from bixt3d.visualize.pages import card, escape, inline, page, table
from bixt3d.visualize.pictures import Panel, part_picture, write_panels
from bixt3d.visualize.scene import BESIDE, LabelledCloud

WORST, PAIRS, LISTED = 24, 20, 200  # clouds drawn, confusions listed, mistakes listed on the page
TOP = 3  # classes of a prediction
BINS = 15  # of confidence


class Report:
    """What an evaluation says of each cloud; `bixt3d.training.evaluate_checkpoint` shows it the batches.

    Attributes:
        predictions: The head, and a row of text and numbers for each cloud, in the split's order.
        part_scores: For parts the head, and a row for each cloud and part; else empty.
        pairs: How many clouds, or points, of one label were taken for another.
        confidence: Counts (bins, 3), see `metrics.calibration`.
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        self.predictions: list[list[Any]] = []
        self.part_scores: list[list[Any]] = []
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.confidence = torch.zeros(BINS, 3, dtype=torch.float64)
        self._worst: list[tuple[float, int, LabelledCloud]] = []  # a heap: the best of the worst on top
        self._seen = 0

    def watch(self, task: Task, split: Split, logits: Tensor, batch: Batch) -> None:
        """Take in the next batch of a split; of a task whose answers are not known, nothing."""
        names, number = task.groups(split)
        truths = task.point_labels(split)
        for answer, points in zip(task.answers(logits, batch), batch.points, strict=False):
            place = self._seen
            own = slice(None if split.count is None else int(split.count[place]))
            truth = None
            if truths is not None:  # what does not count is no truth
                whole = truths[place, own]
                truth = torch.where(metrics.is_labelled(whole, task.ignore), whole, -1).cpu().numpy()
            title = split.names[place] if split.names else str(place)
            seen = (answer.points if hasattr(answer, "points") else points.cpu().numpy())[:, :3]
            about = {"points": seen, "category": names[int(number[place])], **task.view(answer, truth)}
            cloud = LabelledCloud(title, **about)
            self._add(cloud, "file" if split.names else "index")
            self._seen += 1

    @property
    def worst(self) -> list[LabelledCloud]:
        """Up to 24 clouds, that of the worst prediction first."""
        return [cloud for *_, cloud in sorted(self._worst, key=lambda one: (-one[0], -one[1]))]

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error; None where no confidence is known."""
        return metrics.calibration_error(self.confidence) if self.confidence[:, 0].sum() > 0 else None

    def confused(self, most: int = PAIRS) -> list[list[Any]]:
        """Return the most confused pairs as rows: truth, what it was taken for, and how often."""
        what = "points" if self.part_scores else "clouds"
        found = sorted(self.pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
        return [["truth", "taken for", what], *([*pair, count] for pair, count in found)]

    def _add(self, cloud: LabelledCloud, head: str) -> None:
        if cloud.scores:
            quality = self._add_class(cloud, head)
        elif cloud.truth is not None and cloud.prediction is not None:
            quality = self._add_parts(cloud, head)
        else:
            self.predictions = self.predictions or [[head, "truth", "answer"]]
            self.predictions.append([cloud.title, cloud.category, cloud.verdict])
            return
        keep = heapq.heappush if len(self._worst) < WORST else heapq.heappushpop
        keep(self._worst, (-quality, -self._seen, cloud))

    def _add_class(self, cloud: LabelledCloud, head: str) -> float:
        """Take in a classified cloud; return the probability of its true class."""
        ranked = sorted(cloud.scores.items(), key=lambda one: -one[1])[:TOP]
        if not self.predictions:
            more = (
                f"{name}_{place}" for place in range(2, len(ranked) + 1) for name in ("label", "confidence")
            )
            self.predictions.append([head, "truth", "label", "right", "confidence", *more])
        (label, confidence), *others = ranked
        right = label == cloud.category
        cells = [cell for one in others for cell in one]
        self.predictions.append(
            [cloud.title, cloud.category, label, "yes" if right else "no", confidence, *cells]
        )
        self.confidence += metrics.calibration(torch.tensor([confidence]), torch.tensor([right]), BINS)
        if not right:
            self.pairs[cloud.category, label] += 1
        return cloud.scores.get(cloud.category, 0.0)

    def _add_parts(self, cloud: LabelledCloud, head: str) -> float:
        """Take in a cloud with labelled points; return its IoU."""
        truth, prediction = np.asarray(cloud.truth), np.asarray(cloud.prediction)
        if not self.predictions:
            self.predictions.append([head, "category", "points", "IoU", "accuracy", "confidence"])
            self.part_scores.append([head, "category", "part", "points", "predicted", "IoU"])
        right = truth == prediction
        iou = metrics.shape_iou(prediction, truth, cloud.ids)
        confidence = None if cloud.confidence is None else float(cloud.confidence.mean())
        about = [cloud.title, cloud.category]
        self.predictions.append([*about, len(truth), iou, float(right.mean()), confidence])
        for part in cloud.ids:
            is_true, is_said = truth == part, prediction == part
            union = int((is_true | is_said).sum())
            score = int((is_true & is_said).sum()) / union if union else None
            counts = (int(is_true.sum()), int(is_said.sum()))
            self.part_scores.append([*about, cloud.names[part], *counts, score])
        if cloud.confidence is not None:
            sure, good = torch.from_numpy(np.asarray(cloud.confidence)), torch.from_numpy(right)
            self.confidence += metrics.calibration(sure, good, BINS)
        for pair, count in Counter(
            zip(truth[~right].tolist(), prediction[~right].tolist(), strict=True)
        ).items():
            true, said = (cloud.names[part] for part in pair)
            self.pairs[f"{cloud.category}: {true}", said] += count
        return iou

    def write_worst(self, path: Path) -> Path | None:
        """Draw the worst clouds as one picture; return its path, or None where nothing says what is bad."""
        clouds = self.worst
        if not clouds:
            return None
        if self.part_scores:
            return part_picture(clouds, path)
        rows = []
        for cloud in (whole.thinned() for whole in clouds):
            shape = Panel(cloud.title, cloud, cloud.colors(cloud.first_mode))
            rows.append((cloud.category, [shape, Panel("", cloud)]))
        return write_panels(rows, path, min(4, len(rows)))

    def write_page(
        self,
        path: Path,
        title: str,
        about: str,
        scores: Mapping[str, str],
        classes: Sequence[Sequence[Any]],
        pictures: Mapping[str, Path],
    ) -> Path:
        """Write all as one page that needs no network.

        Args:
            path: Where to write.
            title: Of the page.
            about: A line about model and data.
            scores: What each metric is called, and its value as text.
            classes: Rows of the scores of each class, the head first.
            pictures: PNG files that are put into the page, by their headings.
        """
        body = [f'<p class="dim">{escape(about)}</p>', '<div class="scores">']
        body += [f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in scores.items()]
        body += ["</div>", *self._worst_cards(), *self._mistakes()]
        if len(self.confused()) > 1:
            body += ["<h2>Most confused</h2>", table(self.confused())]
        if (error := self.calibration_error) is not None:
            what = "points" if self.part_scores else "clouds"
            body += [
                "<h2>Accuracy against confidence</h2>",
                f"<p>Expected calibration error {error:.1%}: how far, on average over the {what}, the "
                "confidence is from the share that is right. Bars below the line are too sure, "
                f"bars above it not sure enough; darker bars hold more {what}.</p>",
                _diagram(self.confidence),
            ]
        for heading, picture in pictures.items():
            body += [f"<h2>{escape(heading)}</h2>"]
            body += [f'<img alt="{escape(heading)}" src="{inline(picture.read_bytes())}">']
        body += [f"<h2>By {escape(classes[0][0])}</h2>", table(classes)]
        path.write_text(page(title, body), encoding="utf-8")
        return path

    def _worst_cards(self) -> list[str]:
        clouds = self.worst
        if not clouds:
            return []
        parts = bool(self.part_scores)
        cards = []
        for cloud in clouds:
            tops = [f"{name} {share:.1%}" for name, share, _ in cloud.top()]
            lines = [cloud.category, cloud.verdict] if parts else [f"true: {cloud.category}", *tops]
            modes = BESIDE if parts else [cloud.first_mode]
            cards.append(card(cloud, modes, [*lines, cloud.title]))
        kind = (
            "Truth, prediction and wrong points, the lowest IoU first"
            if parts
            else ("The least probability of the true class first")
        )
        return [
            f"<h2>The worst {len(cards)}</h2>",
            f'<p class="dim">{kind}. A label that looks wrong here may be wrong in the data.</p>',
            f'<div class="cards{" three" * parts}">{"".join(cards)}</div>',
        ]

    def _mistakes(self) -> list[str]:
        """List wrong classes, the surest first; all predictions are in a file beside the page."""
        if self.part_scores or len(self.predictions) < 2 or "right" not in self.predictions[0]:
            return []
        head, *rows = self.predictions
        wrong = sorted((row for row in rows if row[3] == "no"), key=lambda row: -row[4])
        if not wrong:
            return []
        kept = [[value for place, value in enumerate(row) if place != 3] for row in [head, *wrong[:LISTED]]]
        more = f", of which {LISTED} are here" if len(wrong) > LISTED else ""
        return [
            f"<h2>{len(wrong):,} wrong of {len(rows):,}</h2>",
            f'<p class="dim">The surest first{more}; predictions.csv has all clouds.</p>',
            f"<details><summary>Show them</summary>{table(kept)}</details>",
        ]


def _diagram(counts: Tensor) -> str:
    """Return accuracy against confidence as a drawing: bars, and the line of a calibrated model."""
    side, left = 300, 42
    bars, width, most = [], side / len(counts), float(counts[:, 0].max())
    for place, (count, _, right) in enumerate(counts.tolist()):
        if not count:
            continue
        high = side * right / count
        said = (
            f"confidence {place / len(counts):.0%} to {(place + 1) / len(counts):.0%}: "
            f"{count:,.0f}, {right / count:.1%} right"
        )
        bars.append(
            f'<rect x="{left + place * width + 1:.1f}" y="{10 + side - high:.1f}" width="{width - 2:.1f}" '
            f'height="{high:.1f}" fill="#0072B2" fill-opacity="{0.25 + 0.75 * (count / most) ** 0.5:.2f}">'
            f"<title>{said}</title></rect>"
        )
    marks = [
        f'<text x="{left - 4}" y="{14 + side * (1 - share):.0f}" text-anchor="end">{share:.0%}</text>'
        f'<text x="{left + side * share:.0f}" y="{side + 26}" text-anchor="middle">{share:.0%}</text>'
        for share in (0, 0.5, 1)
    ]
    return (
        f'<svg viewBox="0 0 {side + 60} {side + 50}" width="{side + 60}" height="{side + 50}" role="img" '
        f'aria-label="accuracy against confidence" font-size="12" fill="#1c2733">{"".join(bars)}'
        f'<path d="M{left} {10 + side}L{left + side} 10" stroke="#D55E00" stroke-width="2"/>'
        f'<path d="M{left} 10V{10 + side}H{left + side}" stroke="#5b6875" fill="none"/>{"".join(marks)}'
        f'<text x="{left + side / 2}" y="{side + 44}" text-anchor="middle">confidence</text></svg>'
    )
