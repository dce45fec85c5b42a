"""What mkdocs calls while it builds the site (`hooks` in mkdocs.yml).

Texts that lie beside the code are pages as well: `<!-- include csrc/README.md -->` alone on a line
of a page stands for that file, with its links made those of the site. In `nav`, a folder with a
slash at its end stands for all of its pages. Pictures of bench/results are shown where they lie.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Files outside docs/ that are pages, by their places in the repository and under docs/.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "csrc/README.md": "how-it-works/native.md",
    "bench/README.md": "performance/benchmark.md",
    "examples/language_model/README.md": "example.md",
}
RESULTS = "bench/results"
_INCLUDE = re.compile(r"^<!-- include (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    config["nav"] = [_expand(item) for item in config["nav"]]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path in sorted((ROOT / RESULTS).glob("*.png")):
        files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    name = page.file.src_uri
    # From a page, the repository's root is one folder further up than the site's.
    shown = re.sub(rf"\]\(\.\./((?:\.\./)*{RESULTS}/[^)\s]+\.png)\)", r"](\1)", markdown)
    return include(shown, name)


def include(markdown: str, page: str) -> str:
    """The text of a page (its place under docs/) with what it includes."""

    def read(match: re.Match[str]) -> str:
        text = (ROOT / match[1]).read_text(encoding="utf-8")
        return _LINK.sub(lambda link: _relink(link, match[1], page), text)

    return _INCLUDE.sub(read, markdown)


def _relink(link: re.Match[str], source: str, page: str) -> str:
    """A link of the included file `source`, as one of the page; else its words alone."""
    words, target, anchor = link[1], link[2], link[3] or ""
    if re.match(r"[a-z]+:", target):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    place = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if place is None:
        return words
    return f"[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"


def _expand(item: Any) -> Any:
    if isinstance(item, dict):
        return {name: _expand(inner) for name, inner in item.items()}
    if isinstance(item, list):
        return [_expand(inner) for inner in item]
    if isinstance(item, str) and item.endswith("/"):
        pages = sorted(path.relative_to(DOCS).as_posix() for path in (DOCS / item).glob("*.md"))
        return sorted(pages, key=lambda page: not page.endswith("/index.md"))
    return item
