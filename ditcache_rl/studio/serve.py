"""Serve a page of gradio on this machine, and nothing that leaves it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ditcache_rl.machine import check_port, require
from ditcache_rl.page import STYLE

LOCAL, PORT = "127.0.0.1", 7860
#: Requests that wait; who comes later is told so.
MOST_WAITING = 16
#: Requests that are worked on at the same time; they take turns at the pipeline.
MOST_AT_ONCE = 4
#: Events that answer at once, and those that draw; neither is an interface for programs.
QUIET: Mapping[str, Any] = MappingProxyType(
    {"show_progress": "hidden", "api_visibility": "private"}
)
DRAWING: Mapping[str, Any] = MappingProxyType(
    {"concurrency_id": "drawing", "api_visibility": "private"}
)
_MOST_UPLOAD = "1mb"  # no field takes a file
#: Of this machine, so that none is loaded.
_FONTS = ("system-ui", "DejaVu Sans", "sans-serif")
_MONO = ("ui-monospace", "DejaVu Sans Mono", "monospace")


def gradio() -> Any:
    """Import gradio, which then tells nobody about it.

    Raises:
        ConfigError: If it is not installed.
    """
    require("studio", "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import gradio

    return gradio


def theme() -> Any:
    """Return how pages look, in fonts that are there."""
    gr = gradio()
    return gr.themes.Base(
        primary_hue="rose", neutral_hue="slate", font=list(_FONTS), font_mono=list(_MONO)
    ).set(
        button_primary_background_fill="#b3123b",
        button_primary_background_fill_dark="#b3123b",
        button_primary_background_fill_hover="#8f0e2f",
        button_primary_background_fill_hover_dark="#8f0e2f",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        body_text_color_subdued="#565c67",
        body_text_color_subdued_dark="#a9b0bc",
        block_info_text_color="#565c67",
        block_info_text_color_dark="#a9b0bc",
        block_label_text_color="#1b1d22",
        block_label_text_color_dark="#e9ebef",
        block_title_text_color="#1b1d22",
        block_title_text_color_dark="#e9ebef",
        input_placeholder_color="#626975",
        input_placeholder_color_dark="#a9b0bc",
    )


def serve(page: Any, *, host: str = LOCAL, port: int = PORT, blocking: bool = True) -> str:
    """Serve a page until it is interrupted.

    Args:
        page: Blocks of gradio.
        host: Where to listen; by default nobody else than this machine is answered.
        port: To listen at.
        blocking: False to return at once; `page.close()` ends it then.

    Returns:
        Its address.

    Raises:
        ConfigError: If the port is in use.
    """
    check_port(host, port)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=MOST_AT_ONCE, api_open=False)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        inbrowser=False,
        show_error=False,
        footer_links=[],
        run_history=False,
        max_file_size=_MOST_UPLOAD,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=STYLE + Path(__file__).with_name("studio.css").read_text(encoding="utf-8"),
        head='<link rel="icon" href="data:,">',
        prevent_thread_lock=not blocking,
    )
    return str(address)
