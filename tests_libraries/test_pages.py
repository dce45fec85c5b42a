"""The pages under docs/libraries: their Python, pasted into one file, prints what they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.libraries import versions

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in sorted((ROOT / "docs/libraries").glob("*.md")) if page.stem != "index"]
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_prints_what_it_shows(page: Path, tmp_path: Path, need_library: object) -> None:
    need_library(page.stem)
    blocks = BLOCK.findall(page.read_text())
    script = tmp_path / "page.py"
    script.write_text("\n".join(text for kind, text in blocks if kind == "python"))
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script.name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    found = f"{versions.describe(page.stem)}\n{result.stdout}{result.stderr[-3000:]}"
    assert result.returncode == 0, found
    position = 0
    for kind, text in blocks:
        if kind == "text":
            position = result.stdout.find(text, position)
            assert position >= 0, f"expected\n{text}in\n{found}"
            position += len(text)
