"""What MkDocs does not do by itself: pages from elsewhere, formulas, no page asks another host."""

import ast
import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

logger = logging.getLogger("mkdocs.hooks")

ROOT = Path(__file__).parents[1]
PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changes.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE.txt",
    "bundles/aeflow/docs/README.md": "model_card.md",
    "bundles/aeflow/docs/data_license.txt": "data_license.txt",
}
"""Files outside of this folder, and where they lie in the site."""

PACKAGES = ("aeflow", "networks", "transforms", "pipelines")
WITHOUT_STUB = ("networks.detectors", "transforms")
FETCHED = re.compile(
    r"""<(?:script|img|link|iframe|source)[^>]*?(?:src|href)=["']?(?:https?:)?//"""
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from files of other kinds or places."""
    for path, uri in PLACES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        body, _ = MarkdownExporter().from_filename(str(notebook))
        content = re.sub(r"\n{3,}", "\n\n", body)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=content))
    for door in doors():
        files.append(File.generated(config, f"api/{door}.md", content=api_page(door)))
    return files


def doors() -> list[str]:
    """Packages that hand something on."""
    stubs = [path for name in PACKAGES for path in (ROOT / name).rglob("__init__.pyi")]
    return [*(".".join(path.parent.relative_to(ROOT).parts) for path in stubs), *WITHOUT_STUB]


def api_page(door: str) -> str:
    """A page of all that a door hands on."""
    stub = ROOT.joinpath(*door.split("."), "__init__.pyi")
    lines = [f"# {door}", "", f"::: {door}", "    options:"]
    if stub.is_file():
        imports = [n for n in ast.parse(stub.read_text()).body if isinstance(n, ast.ImportFrom)]
        lines.append(f"      members: {[one.name for node in imports for one in node.names]}")
    else:
        lines += ["      show_submodules: true", "      filters: ['!^_', '!^dicom$']"]
    return "\n".join(lines)


class Examples(griffe.Extension):
    """Has the section *Example* of a docstring read as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Names it as griffe knows it."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links of the site, and draws formulas."""
    origin = Path(page.file.abs_src_path or ROOT / "docs" / page.file.src_uri).parent
    places = {file.abs_src_path: file.src_uri for file in files if file.abs_src_path}
    places |= {str(ROOT.joinpath(*door.split("."))): f"api/{door}.md" for door in doors()}
    here = posixpath.dirname(page.file.src_uri) or "."

    def link(found: re.Match[str]) -> str:
        path = os.path.normpath(origin / found[1])
        uri = places.get(path, "").replace(".ipynb", ".md")
        return f"]({posixpath.relpath(uri, here)}{found[2] or ''})" if uri else found[0]

    markdown = re.sub(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)", link, markdown)
    return re.sub(
        r"```math\n(.*?)```", lambda found: convert(found[1], display="block"), markdown, flags=re.S
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warns of what a page would fetch from another host, which ends a strict build."""
    for found in FETCHED.findall(output):
        logger.warning("%s asks another host: %s", page.file.src_uri, found)
    return output
