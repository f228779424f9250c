"""Adds to JupyterLab's page what shows and asks for something at once: a splash, and links that preload its scripts.

The page names one script, which names the others after it and the extensions have been loaded. Which ones they are is
read from that script: it is made by rspack, and what can't be read is left out.
"""

from __future__ import annotations

import functools
import glob
import html
import os
import re
from typing import Any

MAIN_SCRIPT = re.compile(r'<script[^>]*\ssrc="(?P<url>[^"?]*/)(?P<name>main\.[\w.-]+\.js)(?P<query>\?v=)?')
CHUNK_FILE = re.compile(r"([\w-]+)\.([0-9a-f]{16,})\.js")
# The parts of the script: chunks with a name in place of their number, the chunks of its first import, the modules that a
# chunk shares with extensions, and the chunks which a shared module is in where no extension brings another version.
NAMED_CHUNK = re.compile(r'(\d+)===\w+\?"([\w-]+)"')
FIRST_CHUNKS = re.compile(r"Promise\.all\(\[([^\]]*)\]\)\.then\([^)]*\)\)+\.main\b")
SHARED_MODULES = re.compile(r'chunkMapping:\{((?:"?\w+"?:\[[^\]]*\],?)+)\}')
SHARED_MODULE = re.compile(r"(\d+):\{shareScope:[^{}]*?fallback:\(\)=>([^{}]*?)\.then\(")
CHUNK = re.compile(r"\.e\((\d+)\)")
THEMES = "@jupyterlab/apputils-extension:themes"
# The background of JupyterLab's own splash, which comes when its scripts have run, and a grey that can be read on it.
LIGHT, DARK = ("#fff", "#616161"), ("#212121", "#bdbdbd")
# It is behind everything: JupyterLab's own splash and its shell, which fill the window, cover it. A rule that looked for
# them would be evaluated at each change of the page. Nothing moves: where there is no graphics processor, an animation
# takes the time that JupyterLab's scripts need.
SPLASH = """<style>
@media screen { body::before { content: "JupyterLab" / ""; position: fixed; inset: 0; z-index: -1; padding-top: 40vh;
  text-align: center; font: 20px system-ui, sans-serif; color: %(ink)s; background: %(back)s; } }
</style>"""
BY_SYSTEM = "@media (prefers-color-scheme: dark) { html { --back: %s; --ink: %s; } }"


def install() -> None:
    """Wraps the handler of JupyterLab's page. Where something can't be added the page is Jupyter's own."""
    from jupyterlab_server.handlers import LabHandler

    stock = LabHandler.render_template

    def render_template(handler: Any, name: str, **namespace: Any) -> str:
        page = stock(handler, name, **namespace)
        if name != "index.html":
            return page
        try:
            return page.replace("</head>", f"{make_head(handler, page, namespace['page_config'])}</head>", 1)
        except Exception as error:
            handler.log.warning("Nothing was added to JupyterLab's page: %r", error)
            return page

    LabHandler.render_template = render_template


def prepare() -> list[str]:
    """Reads the main scripts of the JupyterLab that is installed, for every process that is forked. Returns the paths."""
    from jupyterlab.commands import get_app_dir

    folder = os.path.realpath(os.path.join(get_app_dir(), "static"))
    mains = glob.glob(os.path.join(glob.escape(folder), "main.*.js"))
    return [*mains, *(os.path.join(folder, name) for main in mains for name in list_first_chunks(main))]


def make_head(handler: Any, page: str, config: dict) -> str:
    """Returns what is added to the head of a page."""
    main = MAIN_SCRIPT.search(page)
    urls = [
        f"{config['fullLabextensionsUrl']}/{extension['name']}/{extension['load']}"
        for extension in config.get("federated_extensions", ())
    ]
    if main:
        path = os.path.join(handler.extensionapp.static_dir, main["name"])
        for name in list_first_chunks(os.path.realpath(path)):
            version = f"?v={CHUNK_FILE.fullmatch(name)[2]}" if main["query"] else ""
            urls.append(f"{html.unescape(main['url'])}{name}{version}")
    # The main script has the same priority, and comes first.
    links = [f'<link rel="preload" as="script" fetchpriority="low" href="{html.escape(url)}">' for url in urls]
    return "".join([*links, make_splash(handler)])


def list_first_chunks(path: str) -> list[str]:
    """Returns the names of the files that JupyterLab's main script loads first, as far as they are there."""
    return read_first_chunks(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=16)
def read_first_chunks(path: str, mtime_ns: int) -> list[str]:
    """Reads them from the script. A script that has changed has another time, and is read again."""
    folder, name = os.path.split(path)
    with open(path, encoding="utf-8") as file:
        script = file.read()
    files = {match[1]: match[0] for match in map(CHUNK_FILE.fullmatch, os.listdir(folder)) if match}
    names = dict(NAMED_CHUNK.findall(script))
    first, shared = FIRST_CHUNKS.search(script), SHARED_MODULES.search(script)
    modules = re.findall(r'"?(\w+)"?:\[([^\]]*)\]', shared[1]) if shared else ()
    modules_of = {chunk: re.findall(r'"([^"]+)"', found) for chunk, found in modules}
    chunks_of = {module: CHUNK.findall(fallback) for module, fallback in SHARED_MODULE.findall(script)}
    seen: dict[str, None] = {}
    waiting = CHUNK.findall(first[1]) if first else []
    while waiting:
        chunk = waiting.pop(0)
        if chunk not in seen:
            seen[chunk] = None
            waiting += [other for module in modules_of.get(chunk, ()) for other in chunks_of.get(module, ())]
    found = (names.get(chunk, chunk) for chunk in seen)
    return [files[chunk] for chunk in found if chunk in files and files[chunk] != name]


def make_splash(handler: Any) -> str:
    """Returns the style of the splash, in the colours that JupyterLab is going to have."""
    from jupyterlab_server.settings_utils import get_settings

    app = handler.extensionapp
    folders = (app.app_settings_dir, app.schemas_dir, app.user_settings_dir)
    labextensions = app.extra_labextensions_path + app.labextensions_path
    found, _ = get_settings(*folders, labextensions_path=labextensions, schema_name=THEMES)
    defaults = {name: trait.get("default") for name, trait in found["schema"]["properties"].items()}
    settings = {**defaults, **found["settings"]}
    if settings.get("adaptive-theme"):
        (back, ink), (dark_back, dark_ink) = LIGHT, DARK
        style = SPLASH % {"back": f"var(--back, {back})", "ink": f"var(--ink, {ink})"}
        return style.replace("<style>", "<style>" + BY_SYSTEM % (dark_back, dark_ink), 1)
    back, ink = DARK if "dark" in str(settings.get("theme")).lower() else LIGHT
    return SPLASH % {"back": back, "ink": ink}
