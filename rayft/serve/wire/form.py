"""Pictures in multipart/form-data."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from rayft.serve.contract import RequestError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_FIX = "Send each picture as a file: curl -F image=@picture.jpg."
_MAX_HEADER_BYTES = 4096
_MAX_BOUNDARY = 70
# The parser warns of each damaged form; clients must not fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


def parse_form(body: bytes | memoryview, content_type: str, max_parts: int) -> list[bytes]:
    """Return the contents of all files of a form, in their order.

    Args:
        body: All of it.
        content_type: The header, which names the boundary.
        max_parts: More are refused before they are copied.

    Raises:
        RequestError: 400 no form, or a field that is no file; 413 too many of them.
    """
    boundary = parse_options_header(content_type.encode("latin-1", "replace"))[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise RequestError("Content-Type names no boundary of the form, or too long a one.", _FIX)
    parts = _Parts(max_parts)
    # Bounds of the parser itself; the size of the body is bounded already.
    parser = MultipartParser(boundary, parts.callbacks(), max_header_size=_MAX_HEADER_BYTES)
    try:
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise RequestError(f"The form is damaged: {error}.", _FIX) from None
    if not parts.complete:
        raise RequestError("The form ends before its last boundary.", _FIX)
    if not parts.files:
        raise RequestError("The form holds no file.", _FIX)
    return [bytes(content) for content in parts.files]


class _Parts:
    """What the parser has found so far."""

    def __init__(self, max_parts: int) -> None:
        self.files: list[bytearray] = []
        self.complete = False
        self._max_parts = max_parts
        self._name, self._value = bytearray(), bytearray()
        self._is_file = False
        self._field = ""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._headers,
            "on_part_data": lambda data, start, end: self.files[-1].extend(data[start:end]),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.files) == self._max_parts:
            raise RequestError(
                f"The form has more than {self._max_parts} parts, the most pictures of a request.",
                "Send fewer pictures at once.",
                413,
            )
        self._is_file, self._field = False, ""

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition":
            options = parse_options_header(bytes(self._value))[1]
            self._is_file = b"filename" in options
            self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._name.clear()
        self._value.clear()

    def _headers(self) -> None:
        if not self._is_file:
            raise RequestError(f"The field {self._field[:60]!r} of the form is not a file.", _FIX)
        self.files.append(bytearray())

    def _end(self) -> None:
        self.complete = True
