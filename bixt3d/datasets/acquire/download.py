"""Downloads archives with pooch: one that was cut off is continued, a known checksum is compared."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path

from bixt3d.datasets.files import megabytes, size_of

BLOCK = 1 << 16  # bytes; less than that is lost where a connection breaks


def fetch(url: str, checksum: str | None, archive: Path, most: int, timeout: float) -> None:
    """Downloads a file of at most so many bytes, unless it is there; `<archive>.part` is continued.

    Raises:
        ConnectionError: The server cannot be reached, refuses, or sends too little.
        ValueError: It sends too much, or a file with another checksum.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)  # it would name its files at length
    part = archive.with_name(f"{archive.name}.part")
    download = partial(_download, part=part, most=most, timeout=timeout)
    while not archive.is_file():
        have = size_of(part)
        try:
            pooch.retrieve(url, checksum, archive.name, archive.parent, downloader=download)
        except requests.RequestException as error:
            if size_of(part) <= have:  # else try again, as long as more comes
                raise ConnectionError(_reason(error)) from None
        except ValueError as error:
            raise ValueError(str(error).partition(". Deleted")[0]) from None


def _download(url: str, output: str, _pooch: object, *, part: Path, most: int, timeout: float) -> None:
    """Fetches what a part lacks; all of it where the server has no ranges, or another file by now."""
    import requests
    from tqdm import tqdm

    have, note = size_of(part), part.with_suffix(".version")
    version = note.read_text(encoding="utf-8") if have and note.is_file() else ""
    wanted = {"Range": f"bytes={have}-", "If-Range": version} if version else {}
    wanted["Accept-Encoding"] = "identity"
    with requests.get(url, headers=wanted, stream=True, timeout=timeout) as response:
        headers = response.headers
        now = headers.get("ETag", headers.get("Last-Modified", ""))
        continued = now == version and headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if continued else 0
        if version and not start and response.status_code in (206, 416):  # not the rest of this file
            note.unlink()
            return _download(url, output, _pooch, part=part, most=most, timeout=timeout)
        response.raise_for_status()
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise ValueError(f"it redirects to {response.url}, which is not encrypted")
        total = start + int(headers.get("Content-Length", 0))
        bar = tqdm(total=total or None, initial=start, unit="B", unit_scale=True, ncols=78, disable=None)
        with bar, part.open("ab" if start else "wb") as file:
            note.write_text(now, encoding="utf-8")
            for block in response.iter_content(BLOCK):  # raises where less comes than announced
                file.write(block)
                bar.update(len(block))
                if max(total, file.tell()) > most:
                    raise ValueError(f"it is over {megabytes(most)}, several times the data set")
    os.replace(part, output)


def _reason(error: BaseException) -> str:
    if (response := getattr(error, "response", None)) is not None:
        return f"it answered {response.status_code} {response.reason}"
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return f"no connection, or it broke: {getattr(error, 'strerror', None) or error}"
