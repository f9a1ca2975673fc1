"""Executed chapters are kept until their code, `gmlib`, the locked versions or the smoke switch change.

The cache of myst-nb sees a chapter's own code alone, so everything else is in the name of its folder.
"""

import hashlib
import os
from pathlib import Path


def key(root):
    digest = hashlib.sha256(os.environ.get("GMLIB_SMOKE", "").encode())
    for path in sorted([*root.glob("gmlib/**/*.py"), *root.glob("requirements.lock")]):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def folder(root):
    return Path(root) / ".jupyter_cache" / key(Path(root))


def setup(app):
    def choose_folder(app, config):
        config.nb_execution_cache_path = str(folder(app.srcdir))

    app.connect("config-inited", choose_folder)
