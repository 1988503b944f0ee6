"""The web console: static pages over the public API, without a build step. So far the playground.

`pages()` says which URL path is which file; whoever composes the server hands them to the front.
"""

from pathlib import Path

STATIC = Path(__file__).parent / "static"


def pages() -> dict[str, Path]:
    """URL path -> file."""
    return {
        "/": STATIC / "playground.html",
        "/static/playground.css": STATIC / "playground.css",
        "/static/playground.js": STATIC / "playground.js",
        "/static/key.js": STATIC / "key.js",
        "/static/stream.js": STATIC / "stream.js",
        "/static/words.js": STATIC / "words.js",
        "/static/icon.svg": STATIC / "icon.svg",
    }
