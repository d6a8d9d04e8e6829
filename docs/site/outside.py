"""Take pages from outside docs/ into the site, and mend the links between them.

Links are written as GitHub reads them, relative to the file that has them. The site has the pages
of ``PAGES`` under other names. A link to a file that the site lacks becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]

# Path in the repository -> path in the site.
PAGES = {
    "CONTRIBUTING.md": "project/contributing.md",
    "csrc/README.md": "project/csrc.md",
    "bench/README.md": "project/bench.md",
    "CHANGELOG.md": "project/changelog.md",
    "README.md": "index.md",
}

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside."""
    from mkdocs.structure.files import File

    for source, target in PAGES.items():
        if target != "index.md":
            text = (ROOT / source).read_text()
            files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point each link to a page of the site."""
    here = page.file.src_uri
    written = {target: source for source, target in PAGES.items() if target != "index.md"}
    home = posixpath.dirname(written.get(here, f"docs/{here}"))

    def mended(link: re.Match[str]) -> str:
        text, target = link.groups()
        path, hash_sign, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        there = posixpath.normpath(posixpath.join(home, path))
        in_site = PAGES.get(there) or (there[5:] if there.startswith("docs/") else None)
        if in_site is None:
            return text if (ROOT / there).exists() else link[0]  # the build refuses a broken link
        return f"[{text}]({posixpath.relpath(in_site, posixpath.dirname(here))}{hash_sign}{anchor})"

    return LINK.sub(mended, markdown)
