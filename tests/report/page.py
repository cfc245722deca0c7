"""Read a report as a program would: references to the outside, tables, text."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link", "base", "source", "wbr"}
ADDRESSES = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background",
             "xlink:href", "ping", "manifest", "cite", "code", "archive"}  # fmt: skip
FORBIDDEN = {"script", "link", "iframe", "frame", "object", "embed", "base", "form", "audio",
             "video", "source", "track", "applet", "portal"}  # fmt: skip
CALLS = re.compile(r"fetch\s*\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\s*\(", re.I)


class Page(HTMLParser):
    """Collects what matters."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.outside, self.tables, self.ids, self.links = [], [], set(), []
        self.images, self.text, self.open, self.captions = [], [], [], []
        self.feed(html)
        self.close()
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in FORBIDDEN:
            self.outside.append(f"<{tag}>")
        for name, value in attributes.items():
            value = (value or "").strip()
            if name in ADDRESSES and not value.startswith(("data:", "#")):
                self.outside.append(f"{tag} {name}={value[:80]}")
            if name == "style":
                self._style(value)
            if name.startswith("on"):
                self.outside.append(f"{tag} {name}")
        if tag == "meta" and (attributes.get("http-equiv") or "").lower() == "refresh":
            self.outside.append("meta refresh")
        self.ids.update({attributes["id"]} if "id" in attributes else set())
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        if tag == "table":
            self.tables.append({**attributes, "rows": [], "headers": []})
        if tag == "tr" and self.tables:
            self.tables[-1]["rows"].append({**attributes, "cells": []})
        if tag in ("td", "th") and self.tables:
            cell = {**attributes, "tag": tag, "text": ""}
            self.tables[-1]["rows"][-1]["cells"].append(cell)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if "style" in self.open:
            self._style(data)
            return
        if CALLS.search(data) and "pre" not in self.open:
            self.outside.append(f"call {data[:80]}")
        self.text.append(data)
        if self.tables and {"td", "th"} & set(self.open):
            self.tables[-1]["rows"][-1]["cells"][-1]["text"] += data

    def _style(self, text):
        for address in re.findall(r"url\(\s*['\"]?([^)'\"]*)", text, re.I):
            if not address.startswith(("data:", "#")):
                self.outside.append(f"url({address[:80]})")
        if re.search(r"@import|image-set\(|src\(", text, re.I):
            self.outside.append("@import")
