"""The studio: a page on this machine on which a pipeline is drawn beside itself, cached.

gradio comes with the `studio` extra and is imported only when the studio is opened.
"""

from ditcache_rl.studio.draw import Drawing, Studio
from ditcache_rl.studio.serve import serve

__all__ = ["Drawing", "Studio", "serve"]
