"""Renders README.md and the pages of docs/ to HTML, about as GitHub shows them: `python -m docs.render build/docs`.

Needs markdown-it-py, which `pip install -e ".[dev]"` brings.
"""

import re
import shutil
import sys
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
STYLE = """
body {max-width: 1012px; margin: 0 auto; padding: 32px; box-sizing: border-box; word-wrap: break-word;
      font: 16px/1.5 -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; color: #1f2328}
@media (max-width: 767px) {body {padding: 16px}}
h1, h2 {border-bottom: 1px solid #d1d9e0; padding-bottom: .3em}
a {color: #0969da; text-decoration: none}
img {max-width: 100%; box-sizing: content-box}
pre {background: #f6f8fa; border-radius: 6px; padding: 16px; overflow: auto; font-size: 85%; line-height: 1.45}
code {font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace}
:not(pre) > code {background: #818b981f; border-radius: 6px; padding: .2em .4em; font-size: 85%}
table {display: block; width: max-content; max-width: 100%; overflow: auto; border-collapse: collapse; margin: 16px 0}
th, td {border: 1px solid #d1d9e0; padding: 6px 13px}
tr:nth-child(2n) {background: #f6f8fa}
"""


def pages() -> list[Path]:
    """The pages, relative to the repository."""
    return [Path("README.md"), *sorted(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md"))]


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def render(page: Path) -> str:
    """A page as an HTML document whose links lead to the other HTML documents."""
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    html = markdown.render((ROOT / page).read_text())
    html = re.sub(r'(href="[^":]+)\.md([#"])', r"\1.html\2", html)
    html = re.sub(
        r"<h(\d)>(.*?)</h\1>",
        lambda match: f'<h{match[1]} id="{anchor(re.sub("<.*?>", "", match[2]))}">{match[2]}</h{match[1]}>',
        html,
    )
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{page.stem}</title>'
    return f"<!doctype html>\n<html><head>{head}<style>{STYLE}</style></head>\n<body>{html}</body></html>\n"


def main(target: Path) -> None:
    """Writes the HTML documents, with the pictures they show, into a folder."""
    for page in pages():
        path = target / page.with_suffix(".html")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(page))
    for picture in [*(ROOT / "docs").glob("*.png"), *(ROOT / "benchmarks" / "results").glob("*.png")]:
        copy = target / picture.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, copy)
    print(f"Wrote {len(pages())} pages; start at {target / 'README.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
