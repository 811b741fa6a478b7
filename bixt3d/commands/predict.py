"""Name the class of meshes and clouds, or label their parts.

Of a folder, every mesh and cloud in it is taken; what cannot be read is
skipped and listed, as a training does it. Labels keep the folders of their
files, and sources.csv says of which file each is. A part segmenter that is
told the category takes the name of a file's folder for it, unless --category
names one. LAS and LAZ files of scenes may have any size: they are read,
labelled and written again in pieces, with the labels as classification.

Examples:
  bixt3d predict modelnet40_cpu chair.off table.ply
  bixt3d predict modelnet40_cpu scans --up z --format csv
  bixt3d predict runs/parts scan.xyz --category chair --ply coloured
  bixt3d predict runs/parts chair --out labels --write npy mesh
  bixt3d predict city.laz --checkpoint runs/scenes --out labels
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bixt3d.commands.options import (
    UsageError,
    add_machine,
    add_turns,
    add_up,
    ask_category,
    category_of,
    checkpoint_and_files,
    folder_of,
    place,
)

if TYPE_CHECKING:
    from bixt3d.inference import Predictor

BATCH = 8
FORMS = ("ply", "npy", "csv", "mesh", "las")
LAS = (".las", ".laz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bixt3d predict``."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="meshes (.off .obj .ply ...), clouds (.xyz .npy ...) or folders, after the checkpoint",
    )
    parser.add_argument(
        "--checkpoint",
        help="weights file, run's folder (best, else last) or shipped name, if the first FILE is none",
    )
    parser.add_argument(
        "--category", help="category of the files, in any case (default: the name of a file's folder)"
    )
    add_up(parser)
    add_turns(parser)
    parser.add_argument(
        "--robust", action="store_true", help="leave out points that stand apart from the rest"
    )
    parser.add_argument(
        "--radius",
        type=float,
        metavar="R",
        help="of the columns in which scenes are looked at, in the files' unit (default: as in the training)",
    )
    parser.add_argument(
        "--step",
        type=float,
        metavar="S",
        help="distance of those columns, in radii: up to 1.4; wider is faster (default: as in the training)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=BATCH, metavar="N", help=f"clouds at a time (default: {BATCH})"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    output.add_argument(
        "--top", type=int, default=3, metavar="N", help="how many classes to show (default: 3)"
    )
    output.add_argument("--ply", type=place, metavar="FOLDER", help="write clouds coloured by part")
    output.add_argument(
        "--out", type=place, metavar="FOLDER", help="write the label of every point, as --write says"
    )
    output.add_argument(
        "--write",
        nargs="+",
        choices=FORMS,
        metavar="FORM",
        help="with --out: coloured clouds (ply, the default), arrays (npy), text (csv), the mesh of the file "
        "with coloured faces (mesh), or the LAS or LAZ file itself with other classifications (las, the "
        "default of scenes in such files)",
    )
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    """Predict."""
    checkpoint, given = checkpoint_and_files(args)
    if not given:
        raise UsageError(f"expected files after the checkpoint {checkpoint}, got none")
    for option, value in (("--top", args.top), ("--batch-size", args.batch_size)):
        if value < 1:
            raise UsageError(f"{option}: expected 1 or more, got {value}")
    if args.ply and args.out:
        raise UsageError("give --ply or --out, not both")
    if args.write and not args.out:
        raise UsageError("--write says in which forms --out FOLDER writes: give --out, too")
    from tqdm import tqdm

    from bixt3d.inference import Predictor
    from bixt3d.inference.clouds import find_clouds
    from bixt3d.suggest import counted
    from bixt3d.tasks import TaskArgsError
    from bixt3d.training.device import pick_device
    from bixt3d.visualize.listing import listing

    args.ending.folder = folder_of(checkpoint)
    sizes = {key: getattr(args, key) for key in ("radius", "step") if getattr(args, key) is not None}
    device = pick_device(args.device)
    try:
        predictor = Predictor(
            *(checkpoint, device, args.up, args.batch_size),
            task_args=sizes,
            normalization="robust" if args.robust else None,
            turns=args.turns,
        )
    except TaskArgsError:
        said = " and ".join(f"--{key}" for key in sizes)
        raise ValueError(
            f"{said}: for models of scenes, which are looked at in columns; {checkpoint} is none"
        ) from None
    if (args.ply or args.out or args.category) and not predictor.task.per_point:
        raise ValueError(
            f"--ply and --category are for part segmenters, as --out is; {checkpoint} names classes"
        )
    files, others = find_clouds(given, predictor.task.suffixes)
    if others:
        few = ", ".join(map(str, others[:3])) + (" ..." if len(others) > 3 else "")
        print(f"passed over, no meshes or clouds: {few} ({len(others)} in all)", file=sys.stderr)
    if folder := args.ply or args.out:
        folder.mkdir(parents=True, exist_ok=True)
    named = {str(Path(one)) for one in given}
    base = Path(given[0]) if len(given) == 1 and Path(given[0]).is_dir() else None
    shown = {str(file): str(file.relative_to(base) if base else file) for file in files}  # in the table
    width = max(map(len, shown.values()))
    rows: list[dict[str, Any]] = []
    try:
        with tqdm(total=len(files), unit=" files", disable=None) as bar:
            for row in _rows(args, predictor, files, given):
                rows.append(row)
                bar.update()
                with tqdm.external_write_mode(sys.stderr):
                    if "error" in row:
                        word = "error" if row["file"] in named else "skipped"
                        print(f"{word}: {row['error']}", file=sys.stderr)
                    elif args.format == "table":
                        name = shown[row["file"]].ljust(width)
                        print(listing([{**row, "file": name}], "table"), flush=True)
    finally:  # a whole document also of what is done when Ctrl-C comes
        if args.format != "table":
            print(listing(rows, args.format))
    failed = [row["file"] for row in rows if "error" in row]
    if folder:
        done = len(rows) - len(failed)
        print(f"the labels of {counted(done, 'cloud')} are in {folder}", file=sys.stderr)
    if len(failed) == len(rows) or named & set(failed):
        sys.exit(f"{len(failed)} of {counted(len(files), 'file')} failed")
    if failed:
        print(f"skipped: {len(failed)} of {counted(len(files), 'file')}", file=sys.stderr)


def _rows(
    args: argparse.Namespace, predictor: Predictor, files: list[Path], given: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield what is listed of each file, and write its labels where that is asked for."""
    from bixt3d.mistakes import explain, is_mistake
    from bixt3d.tasks.results import NoCategory
    from bixt3d.visualize.labels import NoFaces, label_names, note_source, write_labels
    from bixt3d.visualize.listing import class_row, part_row
    from bixt3d.visualize.scene import LabelledCloud

    parts = predictor.task.per_point
    asked = args.category
    if parts and asked:
        number = predictor.category_number(asked)  # an unknown one ends all
        asked = predictor.classes[number] if number is not None and predictor.classes else asked
    told = [asked or category_of(predictor, file) or None for file in files]
    folder, forms = args.ply or args.out, ["ply"] if args.ply else args.write or []
    streamed = [_is_streamed(predictor, file, forms) for file in files]
    told_of = [category for category, apart in zip(told, streamed, strict=True) if not apart]
    whole = [file for file, apart in zip(files, streamed, strict=True) if not apart]
    answers = predictor.answers(whole, told_of if parts else None)
    names = label_names(files, folder, given) if folder else [""] * len(files)
    for file, category, name, apart in zip(files, told, names, streamed, strict=True):
        try:
            if apart:
                row = _label_las(predictor, file, folder and folder / f"{name}{file.suffix.lower()}")
                if folder:
                    note_source(folder, name, file)
                yield row
                continue
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            if not parts:
                row = class_row(str(file), answer, predictor.classes, args.top)
            else:
                points = answer.points if hasattr(answer, "points") else predictor.read(file)
                about = {"points": points[:, :3], **predictor.task.view(answer)}
                cloud = LabelledCloud(file.name, category=category or "", **about)
                row = part_row(str(file), cloud)
                for form in (forms or ["ply"]) if folder else ():
                    try:
                        row[form] = str(write_labels(cloud, folder, name, form, file))
                        note_source(folder, name, file)
                    except NoFaces:  # of a cloud among meshes the other forms are written
                        if forms == ["mesh"]:
                            raise
            if predictor.auto_up:
                row["up"] = answer.up
            yield row
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if not is_mistake(error):
                raise
            if isinstance(error, NoCategory) and not any(told):  # nor will another file be told
                raise ValueError(ask_category(file, error)) from None
            said = ask_category(file, error) if isinstance(error, NoCategory) else explain(error)
            yield {"file": str(file), "error": said if str(file) in said else f"{file}: {said}"}


def _is_streamed(predictor: Predictor, file: Path, forms: Sequence[str]) -> bool:
    """Tell whether a file is labelled in pieces: a scene whose labels go into a file of its kind, or nowhere.

    Raises:
        ValueError: If such a file is asked for, and cannot be.
    """
    scene = predictor.task.reach(predictor.preprocess) is not None and not predictor.auto_up
    scan = scene and file.suffix.lower() in LAS
    if "las" in forms and not (scan and len(forms) == 1):
        raise ValueError(
            f"--write las: expected no other form, a LAS or LAZ file, and a model of scenes that is told its "
            f"up axis, got {' '.join(forms)}, {file} and a model for {predictor.task.name}"
        )
    return scan and forms in ([], ["las"])


def _label_las(predictor: Predictor, file: Path, target: Path | None) -> dict[str, Any]:
    """Label a LAS or LAZ file in pieces, and return what is listed of it."""
    from bixt3d.inference.stream import label_las

    said, names = label_las(predictor, file, target), predictor.part_names
    parts = [
        {
            "part": part,
            "name": names[part],
            "points": int(said.counts[part]),
            "confidence": round(float(said.confidence[part]), 6),
        }
        for part in (-said.counts).argsort(kind="stable").tolist()
        if said.counts[part]
    ]
    written = {} if said.path is None else {"las": str(said.path)}
    return {"file": str(file), "category": None, "points": said.points, "parts": parts, **written}
