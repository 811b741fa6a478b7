"""Downloads a file over HTTP(S), over several tries and runs where it must."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bixt3d.datasets.archives import megabytes, require_space

if TYPE_CHECKING:
    import requests

BLOCK = 1 << 16


def download_file(
    url: str,
    output_file: str,
    pooch: object = None,
    *,
    part: Path,
    most_bytes: int,
    timeout: float = 30.0,
    retries: int = 3,
) -> None:
    """Downloads a file over HTTP(S), going on where an earlier try stopped: a downloader for pooch.

    What came is kept in `part` until all is there, and beside it in `<part>.json` what it is a part of. It is
    gone on with where the server supports ranges and the file's size, and its ETag or date, are what they
    were; else it is started anew.

    Args:
        url: http or https; a redirection from https to http is refused, and certificates are always verified.
        output_file: Gets the whole file.
        pooch: Not used; pooch calls its downloaders with three arguments.
        part: Path of the partial file.
        most_bytes: A larger file is refused.
        timeout: Seconds that a server may take to answer, and may pause.
        retries: How often a transfer that broke is gone on with although no more came. A server that cannot
            be reached, or is silent from the start, is asked once: there are other mirrors.

    Raises:
        requests.RequestException: The server cannot be reached, refuses, stalls, or sends too little.
        ValueError: It sends a web page, or too much.
        OSError: The disk is full.
    """
    import requests

    best, failures, began = size_of(part), 0, False
    while True:
        try:
            _transfer(url, part, timeout, most_bytes)
            break
        except requests.RequestException as error:
            status = 0 if error.response is None else error.response.status_code
            if size_of(part) > best:
                best, failures, began = size_of(part), 0, True
            failures += 1
            busy = status == 429 or status >= 500
            broke = isinstance(error, requests.exceptions.ChunkedEncodingError) and not _silent(error)
            if failures > retries or not (busy or broke or began and not status):
                raise
            time.sleep(min(0.5 * 2**failures, 10))
    os.replace(part, output_file)
    _note(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, timeout: float, most_bytes: int) -> None:
    """Fetches what `part` lacks, or all of it where it does not fit what the server has."""
    import requests
    import urllib3
    from tqdm import tqdm

    known = _read_note(part, url)
    have = size_of(part) if known else 0
    if have and have == known["total"]:
        return  # only the renaming was missed
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if have and response.status_code in (206, 416) and not _continues(response, known, have):
            part.unlink()  # the next request asks for no range, so this ends
            return _transfer(url, part, timeout, most_bytes)
        response.raise_for_status()
        if url.lower().startswith("https:") and not response.url.lower().startswith("https:"):
            raise ValueError(f"it redirects to an address without TLS, {response.url}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise ValueError("it sent a web page, not an archive: perhaps a login or a confirmation")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        length = None if encoded else response.headers.get("Content-Length")
        start = have if response.status_code == 206 else 0
        total = None if length is None else start + int(length)
        if total is not None:
            _check_size(total, most_bytes)
            require_space(part.parent, total - start, f"downloading {part.name.removesuffix('.part')}")
        if not start:
            part.unlink(missing_ok=True)  # before the note, which does not describe it
            _note(part).write_text(json.dumps({"url": url, "total": total, **_validators(response)}))
        bar = tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc="downloading", ncols=78, disable=None
        )
        with bar, part.open("ab" if start else "wb") as file:
            try:
                # iter_content would drop what it has of a block when the connection breaks
                while block := response.raw.read1(BLOCK, decode_content=encoded):
                    file.write(block)
                    bar.update(len(block))
                    _check_size(file.tell(), most_bytes)
            except urllib3.exceptions.HTTPError as error:
                raise requests.exceptions.ChunkedEncodingError(error) from error
    if total is not None and size_of(part) != total:
        raise requests.ConnectionError(f"only {size_of(part):,} of {total:,} bytes came")


def _continues(response: requests.Response, known: dict[str, Any], have: int) -> bool:
    """Tells whether a server's answer goes on with the file that the part belongs to."""
    span = response.headers.get("Content-Range", "").removeprefix("bytes ")  # first-last/total
    fits = span.startswith(f"{have}-") and span.endswith(f"/{known['total']}")
    return fits and all(known.get(key) in (None, value) for key, value in _validators(response).items())


def _validators(response: requests.Response) -> dict[str, str]:
    names = ("ETag", "Last-Modified")
    return {name: response.headers[name] for name in names if name in response.headers}


def _read_note(part: Path, url: str) -> dict[str, Any]:
    """Reads what the part belongs to; empty where that is another address or its size is not known."""
    try:
        known = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        return {}
    fits = isinstance(known, dict) and known.get("url") == url and isinstance(known.get("total"), int)
    return known if fits and size_of(part) <= known["total"] else {}


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def size_of(path: Path) -> int:
    """Returns the bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _check_size(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise ValueError(f"its file is over {megabytes(most_bytes)}, several times the data set's archive")


def _silent(error: requests.RequestException) -> bool:
    return "timed out" in str(error)


def reason_of(error: requests.RequestException, timeout: float) -> str:
    """Says in a few words why a mirror failed."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"it answered {error.response.status_code} {error.response.reason}"
    if _silent(error):
        return f"no answer, or none any more, for {timeout:g} s"
    cause: BaseException = error
    while (deeper := cause.__cause__ or cause.__context__) is not None:
        cause = deeper
    if isinstance(cause, socket.gaierror):
        return "no connection: its name is not known; is there a network?"
    system = cause.strerror if isinstance(cause, OSError) else None
    kind = ""
    if isinstance(error, requests.exceptions.SSLError):
        kind = "its certificate was not accepted: "
    elif isinstance(error, requests.exceptions.ChunkedEncodingError):
        kind = "the connection broke: "
    elif system:
        kind = "no connection: "
    return f"{kind}{system or cause}"
