"""The first page's first screen, and what a link to any page shows elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from topk_lib import records

FIRST = "must-it-read-it-all"
RULES = {"linear": "linear rule", "tfidf": "TF-IDF", "first": "first k"}
CARD = "Choosing k. Of a review's words, those that are kept are marked."


class FirstScreen(SphinxDirective):  # type: ignore[misc]
    """The content as the lead, two buttons, and the review of ``results/first_page`` under a moving k."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        # Not at the top: the extension is read where only a part of the package is at hand.
        from topk_lib.show import reading

        record = records.load("first_page", "review")
        found, budgets = record["metrics"], record["settings"]["budgets"]
        explorer = reading(
            found["pieces"],
            {RULES[rule]: found["ranks"][rule] for rule in RULES},
            {RULES[rule]: found["positive"][rule] for rule in RULES},
            budgets,
            found["whole"],
        )
        lead = nodes.container(classes=["course-lead"])
        self.state.nested_parse(self.content, self.content_offset, lead)
        read = addnodes.pending_xref(
            "", nodes.inline("", "Read"), reftype="ref", refdomain="std", reftarget=f"ch-{FIRST}",
            refexplicit=True, refwarn=True, refdoc=self.env.docname,
        )  # fmt: skip
        run = nodes.reference(
            "", "Run", refuri=colab(self.env.app, f"notebooks/01_{FIRST.replace('-', '_')}")
        )
        buttons = nodes.paragraph("", "", read, run, classes=["course-buttons"])
        screen = nodes.container("", lead, buttons, classes=["course-first"])
        return [screen, nodes.raw("", str(explorer.data), format="html")]


def colab(app: Sphinx, page: str) -> str:
    """Where a chapter's twin opens in Colab."""
    theme = app.config.html_theme_options
    repository = theme["repository_url"].removeprefix("https://")
    return f"https://colab.research.google.com/{repository.replace('.com', '', 1)}/blob/main/{page}.ipynb"


def card(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Open Graph tags: a title, the first sentences and a picture, where a link to the page is shown."""
    if doctree is None:
        return
    texts = (p.astext() for p in doctree.findall(nodes.paragraph))
    first = " ".join(next(texts, "").split())
    about = first if len(first) <= 200 else first[:197].rsplit(" ", 1)[0] + "..."
    organisation, name = app.config.html_theme_options["repository_url"].split("/")[-2:]
    home = f"https://{organisation}.github.io/{name}"  # addresses here must be absolute
    tags = {
        "og:type": "website",
        "og:site_name": "Choosing k",
        "og:title": nodes.Text(context["title"]).astext(),
        "og:description": about,
        "og:url": f"{home}/{page}.html",
        "og:image": f"{home}/_static/card.png",
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": CARD,
    }
    lines = [f'<meta property="{key}" content="{escape(value)}">' for key, value in tags.items()]
    lines += [
        f'<meta name="description" content="{escape(about)}">',
        '<meta name="twitter:card" content="summary_large_image">',
    ]
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("first-screen", FirstScreen)
    app.connect("html-page-context", card)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
