"""Take out what the theme ships and no page needs: 2 MB of icons (see icons.css) and source maps."""

from pathlib import Path

UNUSED = ["**/*.map", "vendor/fontawesome/webfonts/*", "scripts/fontawesome.js"]


def lighten(app, exception):
    if exception or app.builder.format != "html":
        return
    for path in (path for pattern in UNUSED for path in Path(app.outdir, "_static").glob(pattern)):
        path.write_text("")  # emptied rather than removed: pages and style sheets still name them


def setup(app):
    app.connect("build-finished", lighten)
