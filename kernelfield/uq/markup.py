"""Templates of this folder, filled in. What comes from data is escaped; what is drawn here is marked as such."""

from pathlib import Path
from typing import Any

from kernelfield.uq.words import number

try:
    import jinja2
    from markupsafe import Markup
except ImportError as error:
    raise ImportError("reports need matplotlib and jinja2; pip install 'kernelfield[report]'") from error


def written(template: str, content: dict[str, Any], **more: Any) -> str:
    """A template of this folder, filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template).render(content, **more)


def figure(name: str, title: str, svg: str, caption: str) -> dict[str, Any]:
    """A figure of a page, whose ids begin with its name and a dash."""
    return {"id": f"{name}-caption", "title": title, "svg": Markup(svg), "caption": caption}
