"""The page at /: one file of HTML, with a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

_FOLDER = Path(__file__).parent


def build_page() -> tuple[bytes, bytes]:
    """Return the page, HTML in UTF-8, and its content security policy.

    Source: W3C Content Security Policy Level 3, section 2.3.1, on digests of inline scripts.
    """
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = (_FOLDER / "page.html").read_text(encoding="utf-8")
    policy = [
        "default-src 'none'",
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return page.replace("{{style}}", style).replace("{{script}}", script).encode(), "; ".join(policy).encode()


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
