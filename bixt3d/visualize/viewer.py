"""Look through labelled clouds in a window: keys choose what is shown, Open3D draws it.

The window is Open3D's `VisualizerWithKeyCallback`, whose points have exactly the colours that they are given.
Where no window can be opened, pictures are written instead.
"""

from __future__ import annotations

import ctypes
import os
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bixt3d.visualize.browse import opening
from bixt3d.visualize.draw import camera_for
from bixt3d.visualize.figure import writable
from bixt3d.visualize.overlay import draw_overlay, rectangles
from bixt3d.visualize.pictures import PICTURES, file_name, write_pictures
from bixt3d.visualize.scene import LabelledCloud, rgb
from bixt3d.visualize.viewer_state import HEIGHT, HELP, KEYS, ViewerState

Array = np.ndarray[Any, Any]

__all__ = ["ViewerState", "display_missing", "view"]

EVERY_KEY = (*range(32, 97), *range(256, 270), *range(290, 315), *range(320, 337))
WIDTH = 1100
SMALLEST = 150  # pixels: a window with less, such as a minimised one, gets no texts
ZOOM = 0.64
SMALLER, APART = 0.62, 1.2  # size of clouds that stand side by side, and the distance between them
FLATTER = -8  # steps of 5 degrees off Open3D's angle of view: clouds side by side are seen alike
NEAR, FAR = 0.04, 30.0  # of what is drawn, from the camera; clouds have radius one


def view(
    clouds: Sequence[LabelledCloud],
    folder: str | Path = "views",
    title: str = "bixt3d",
    pictures: int = PICTURES,
) -> None:
    """Show clouds in a window until it is closed; without a display, write pictures of a few and say so.

    Args:
        clouds: What to look through, such as a `Gallery`.
        folder: Where pictures go.
        title: Of the window.
        pictures: How many clouds are drawn where no window can be opened.

    Raises:
        ImportError: If Open3D is missing, or matplotlib, which writes the legend and draws the pictures.
        ValueError: If there are no clouds.
    """
    reason = display_missing()
    if reason is None:
        state = ViewerState(clouds)
        window = _Window(state, Path(folder).expanduser())
        if window.opened(title):
            state.index = opening(clouds)
            with suppress(KeyboardInterrupt):
                window.run()
            return
        reason = "Open3D cannot open a window here"
    print(f"{reason};\nwriting pictures into {folder} instead")
    write_pictures(clouds, folder, pictures)


def display_missing() -> str | None:
    """Return why no window can be opened, or None if a display answers.

    Open3D itself draws on without one, for nobody, and never returns.
    """
    if sys.platform in ("win32", "darwin"):
        return None
    named = [f"{name}={os.environ[name]}" for name in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(name)]
    if not named:
        return "there is no display: neither DISPLAY nor WAYLAND_DISPLAY is set"
    for library, connect, disconnect in (
        ("libX11.so.6", "XOpenDisplay", "XCloseDisplay"),
        ("libwayland-client.so.0", "wl_display_connect", "wl_display_disconnect"),
    ):
        try:
            loaded = ctypes.CDLL(library)
        except OSError:
            continue
        call = getattr(loaded, connect)
        call.argtypes, call.restype = [ctypes.c_char_p], ctypes.c_void_p
        display = call(None)
        if display:
            getattr(loaded, disconnect)(ctypes.c_void_p(display))
            return None
    return f"no display answers at {' or '.join(named)}"


class _Window:
    """The window and its loop; what it shows is the state's."""

    def __init__(self, state: ViewerState, folder: Path) -> None:
        try:
            import open3d
        except (ImportError, OSError) as error:  # OSError: a library of the system that it loads is missing
            raise ImportError(
                f'the window needs Open3D ({error}): pip install "bixt3d[viewer]"; '
                "without it, --png FOLDER writes pictures and --html FILE a web page"
            ) from error
        self.state, self.folder = state, folder
        self.vector, self.triple = open3d.utility.Vector3dVector, open3d.utility.Vector3iVector
        self.vis = open3d.visualization.VisualizerWithKeyCallback()
        self.cloud, self.texts = open3d.geometry.PointCloud(), open3d.geometry.TriangleMesh()
        self.pressed: list[str] = []
        self.size, self.camera, self.home = (0, 0), b"", b""
        self.shown = -1  # which cloud
        self.edges: Array = np.zeros((0, 4))  # of the texts' rectangles
        self.told: tuple[Any, ...] = ((), [])

    def opened(self, title: str) -> bool:
        """Open the window, or say that it cannot be."""
        if not self.vis.create_window(writable(title), WIDTH, HEIGHT):
            return False
        for key in EVERY_KEY:  # also those without a meaning here: Open3D's own would change the colours
            self.vis.register_key_callback(key, partial(self._press, KEYS.get(key, "")))
        option, control = self.vis.get_render_option(), self.vis.get_view_control()
        option.background_color, option.light_on = np.ones(3), False
        control.set_constant_z_near(NEAR)
        control.set_constant_z_far(FAR)
        control.change_field_of_view(FLATTER)
        # The view is fitted to this cube once; every cloud is shown inside it.
        corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3)  # (8, 3)
        self.cloud.points = self.vector(corners)
        self.vis.add_geometry(self.cloud)
        self.vis.add_geometry(self.texts, reset_bounding_box=False)
        return True

    def run(self) -> None:
        """Draw and obey until the window is closed."""
        try:
            self._show()
            while self.vis.poll_events() and self._obey():
                self._follow()
                time.sleep(0.01)
        finally:
            self.vis.destroy_window()

    def _obey(self) -> bool:
        """Do what the keys that were pressed ask for; return whether the window stays."""
        actions, self.pressed = self.pressed, []
        for action in actions:
            self.state.act(action)
            if action == "quit":
                return False
            if action == "reset":
                self._reset()
            elif action == "picture":
                self._picture()
            elif action == "help" and self.state.help:
                print("\n".join(f"  {keys:17}{text}" for keys, text in HELP))
        if actions:
            self._show()
        return True

    def _press(self, action: str, _: Any) -> bool:
        # Only noted: an error in here would pass through Open3D's own code.
        if action:
            self.pressed.append(action)
        return False

    def _reset(self) -> None:
        """Look at the cloud from where it is best seen."""
        control = self.vis.get_view_control()
        _, up, front = camera_for(self.state.points).axes
        control.set_lookat(np.zeros(3))
        control.set_front(front)
        control.set_up(up)  # at a right angle to the front, or what Open3D says of its camera is wrong
        control.set_zoom(ZOOM)
        self.home = self._seen().extrinsic.tobytes()

    def _seen(self) -> Any:
        return self.vis.get_view_control().convert_to_pinhole_camera_parameters()

    def _show(self) -> None:
        """Draw the state's cloud, and tell in the terminal what has changed."""
        if self.state.index != self.shown and self.home in (b"", self._seen().extrinsic.tobytes()):
            self._reset()  # nobody has turned the last one
        self.shown = self.state.index
        self.cloud.colors = self.vector(self.state.colors)
        self._place(self._seen().extrinsic)
        self.size = (0, 0)  # so that the texts are written anew
        self._follow()
        self._tell()

    def _place(self, extrinsic: Array) -> None:
        """Put the cloud where it is seen, or its copies side by side before the camera."""
        points, count = self.state.points, len(self.state.columns)
        if count > 1:
            right = extrinsic[0, :3]  # the camera's, in the world
            asides = APART * (np.arange(count) - (count - 1) / 2)
            points = np.concatenate([SMALLER * points + aside * right for aside in asides])
        self.cloud.points = self.vector(points)
        self.vis.update_geometry(self.cloud)

    def _tell(self) -> None:
        state, fill = self.state, partial(textwrap.fill, width=80, break_long_words=False)
        shown, legend = (state.place, state.headline), state.legend
        if shown != self.told[0]:
            print(fill("  ".join(shown), subsequent_indent="  "))
            if state.fault:
                print(fill(state.fault, initial_indent="  ", subsequent_indent="  "))
        if legend != self.told[1]:
            print("".join(f"  {_mark(color)} {name}\n" for name, color in legend), end="")
        if state.message:
            print(state.message)  # in one line, as it may hold a path
        sys.stdout.flush()
        self.told = (shown, legend)

    def _follow(self) -> None:
        """Write the texts for the window's size, and keep them before the camera."""
        seen = self._seen()
        width, height = seen.intrinsic.width, seen.intrinsic.height
        if min(width, height) < SMALLEST:
            return
        if (width, height) != self.size:
            self.size, self.camera = (width, height), b""
            self._write()
        camera = seen.extrinsic.tobytes()
        if camera == self.camera:
            return
        self.camera = camera
        if len(self.state.columns) > 1:
            self._place(seen.extrinsic)
        left, top, right, bottom = self.edges.T
        across = np.stack([left, right, right, left], axis=1)  # (Q, 4)
        down = np.stack([top, top, bottom, bottom], axis=1)  # (Q, 4)
        depth = 1.25 * NEAR
        pixel = depth / seen.intrinsic.get_focal_length()[0]
        x, y = (across - width / 2) * pixel, (down - height / 2) * pixel
        corners = np.stack([x, y, np.full(x.shape, depth)], axis=-1).reshape(-1, 3)  # (4Q, 3)
        turn, shift = seen.extrinsic[:3, :3], seen.extrinsic[:3, 3]  # world to camera
        self.texts.vertices = self.vector((corners - shift) @ turn)
        self.vis.update_geometry(self.texts)

    def _write(self) -> None:
        state, scale = self.state, min(self.size[1] / HEIGHT, self.size[0] / 700)
        note, keys = state.message or state.fault, HELP if state.help else ()
        growth = scale * (SMALLER if len(state.columns) > 1 else 1)
        self.vis.get_render_option().point_size = max(1.0, state.size * growth)
        image = draw_overlay(
            *(self.size, scale, state.headline, state.place, state.legend, note, keys),
            amounts=state.amounts,
            bars=state.bars,
            columns=state.columns,
        )
        self.edges, colors = rectangles(image)
        first = 4 * np.arange(len(colors))[:, None]  # (Q, 1)
        # seen from in front, counterclockwise
        triangles = np.concatenate([first + [0, 3, 2], first + [0, 2, 1]])  # (2Q, 3)
        self.texts.triangles = self.triple(triangles)
        self.texts.vertex_colors = self.vector(colors.repeat(4, axis=0))

    def _picture(self) -> None:
        """Write what the window shows."""
        self._show()
        shown = self.state.mode if len(self.state.columns) == 1 else "beside"
        name = file_name(f"{self.state.title}_{shown}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = next(path for path in _numbered(self.folder, name) if not path.exists())
            self.vis.capture_screen_image(path, do_render=True)
            if not path.is_file():
                raise OSError(f"{path} could not be written")
            self.state.message = f"picture: {path}"
        except OSError as error:
            self.state.message = f"no picture: {error}"


def _numbered(folder: Path, name: str) -> Iterator[Path]:
    return (folder / (f"{name}_{number}.png" if number > 1 else f"{name}.png") for number in count(1))


def _mark(color: str) -> str:
    """A block in that colour where a terminal shows it, else the colour's number."""
    if not sys.stdout.isatty():
        return color
    red, green, blue = (round(255 * value) for value in rgb(color))
    return f"\x1b[38;2;{red};{green};{blue}m██\x1b[0m"
