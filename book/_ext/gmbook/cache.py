"""Executed chapters are kept as long as all that they come from stays as it is.

That is their code, `gmlib`, the stored results, the locked versions and the smoke switch. The cache of
myst-nb sees a chapter's own code alone, so everything else is in the name of its folder. And it executes one
chapter after the other, so chapters that are not in the cache go through all processors before.
"""

import hashlib
import logging
import os
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

from .chapters import chapter_of

JUPYTEXT = {"name": "jupytext", "type": "plugin"}


def key(root):
    digest = hashlib.sha256(os.environ.get("GMLIB_SMOKE", "").encode())
    beside = ("gmlib/**/*.py", "book/results/*.json", "requirements.lock")
    for path in sorted(path for pattern in beside for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def folder(root):
    return Path(root) / ".jupyter_cache" / key(Path(root))


def warm(app, env, docnames):
    """Executes new chapters side by side. One that fails is left to myst-nb, which says why and stops."""
    chapters = [env.doc2path(name) for name in env.found_docs if chapter_of(name)]
    cache = get_cache(folder(app.srcdir))
    for path in chapters:
        cache.add_nb_to_project(path, read_data=JUPYTEXT)
    quiet = logging.getLogger(__name__)
    quiet.setLevel(logging.CRITICAL)
    executor = load_executor("local-parallel", cache, quiet)
    executor.run_and_cache(filter_uris=chapters, timeout=app.config.nb_execution_timeout)


def setup(app):
    def choose_folder(app, config):
        config.nb_execution_cache_path = str(folder(app.srcdir))

    app.connect("config-inited", choose_folder)
    app.connect("env-before-read-docs", warm)
