"""Settings of the site: `sh .ci/tox -e docs` builds it, with every warning an error."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
sys.path.insert(0, str(HERE.parent / "src"))

project = "U-Net and U-Net-transformer"
author = "the authors"
copyright = "the authors, Apache License 2.0"

extensions = [
    "myst_nb",  # pages in Markdown; those that begin with a `kernelspec` are run
    "sphinx_design",  # folded answers, cards
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "repository_files",
    "source_code",
]
exclude_patterns = ["extensions", "results", "**.ipynb_checkpoints"]

# Markdown with mathematics between dollar signs, which forges show, too.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.environ["PYTHONPATH"] = str(HERE.parent / "src")
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"  # compilers' advice

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings state shapes and units, which types cannot
add_module_names = False
highlight_language = "none"
# Fields of several classes have the same name; a docstring that names one means that of its own class.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
